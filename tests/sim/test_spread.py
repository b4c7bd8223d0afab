"""Spread layouts: what may lie elsewhere, and that it lies on the table, apart, reachable and the same again."""

import numpy as np
import pytest

from fovea.errors import FoveaError
from fovea.sim import EpisodeStart, LiberoEnv
from fovea.sim.geometry import Rectangle, footprint
from fovea.sim.spread import REACH, movable, spread

SOUP_INTO_BASKET = 50  # libero_90, living room scene 2: seven things and a basket
PUDDING_BESIDE_PLATE = 70  # the goal is a region of the table, where the plate usually is
TABLE = "kitchen_table"


def problem(**changes):
    """A task as LIBERO parses it: put the bowl on the plate."""
    usual = {
        "objects": {"bowl": ["bowl_1"], "plate": ["plate_1"], "ketchup": ["ketchup_1"]},
        "initial_state": [
            ["on", "bowl_1", f"{TABLE}_bowl_init_region"],
            ["on", "plate_1", f"{TABLE}_plate_init_region"],
            ["on", "ketchup_1", f"{TABLE}_ketchup_init_region"],
            ["open", "cabinet_1_top_region"],
        ],
        "goal_state": [["on", "bowl_1", "plate_1"]],
        "obj_of_interest": ["bowl_1", "plate_1"],
    }
    return usual | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["bowl_1", "ketchup_1", "plate_1"]),
        ({"objects": {"bowl": ["bowl_1", "bowl_2"], "plate": ["plate_1"]}}, ["plate_1"]),
        ({"goal_state": [["on", "bowl_1", f"{TABLE}_plate_right_region"]]}, ["bowl_1", "ketchup_1"]),
        (
            {"objects": {"red_bowl": ["bowl_1"], "white_bowl": ["b_1", "b_2"], "plate": ["plate_1"]}},
            ["plate_1"],
        ),
        (
            {"goal_state": [["on", "bowl_1", f"{TABLE}_plate_right_region"]], "obj_of_interest": []},
            ["bowl_1", "ketchup_1"],
        ),
        ({"goal_state": [["in", "bowl_1", "plate_1_contain_region"]]}, ["bowl_1", "ketchup_1"]),
        ({"initial_state": [["on", "bowl_1", "plate_1"], ["on", "plate_1", f"{TABLE}_init_region"]]}, []),
        ({"initial_state": [["on", "bowl_1", "cabinet_1_top_side"]]}, []),
    ],
    ids=[
        "all on the table",
        "one of two",
        "beside the plate",
        "a red bowl beside two white ones",
        "beside a plate that is of no interest",
        "into it",
        "a bowl on the plate",
        "on furniture",
    ],
)
def test_only_what_leaves_the_instruction_true_may_lie_elsewhere(changes, expected):
    assert movable(problem(**changes), TABLE) == expected


@pytest.fixture(scope="module")
def crowded(asset_cache):
    env = LiberoEnv("libero_90", SOUP_INTO_BASKET)
    yield env
    env.close()


def begin(env: LiberoEnv, layout: str, seed: int) -> dict[str, np.ndarray]:
    env.reset(EpisodeStart(env.task.suite, env.task.task_id, 0, layout=layout, seed=seed))
    return env.object_positions()


def test_objects_are_spread_apart_within_reach_and_the_basket_stays(crowded):
    usual, spreads = begin(crowded, "official", 1), [begin(crowded, "spread", seed) for seed in (1, 2, 1)]
    movers = movable(crowded.sim_env.parsed_problem, crowded.sim_env.workspace_name)
    assert len(movers) == 7
    base = np.asarray(crowded.sim_env.robots[0].base_pos)[:2]
    for positions in spreads:
        assert not crowded.solved_at_reset
        np.testing.assert_allclose(positions["basket_1"][:2], usual["basket_1"][:2], atol=0.02)
        points = np.stack([positions[name][:2] for name in movers])
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1)[~np.eye(len(movers), dtype=bool)]
        assert apart.min() > 0.05
        assert np.linalg.norm(points - base, axis=1).max() < REACH + 0.02
    for name in movers:
        assert np.linalg.norm(spreads[0][name] - spreads[1][name]) > 0.02
        np.testing.assert_array_equal(spreads[0][name], spreads[2][name])
    soup = np.stack([begin(crowded, "spread", seed)["alphabet_soup_1"][:2] for seed in range(8)])
    drawn = np.stack([begin(crowded, "drawn", seed)["alphabet_soup_1"][:2] for seed in range(8)])
    assert np.ptp(drawn, 0).max() < 0.06 < np.ptp(soup, 0).min()


def test_the_place_of_the_goal_stays_free_and_so_does_what_names_it(asset_cache):
    env = LiberoEnv("libero_90", PUDDING_BESIDE_PLATE)
    plate = begin(env, "drawn", 3)["plate_1"]
    spread_plate = begin(env, "spread", 3)["plate_1"]
    np.testing.assert_allclose(spread_plate, plate, atol=1e-3)
    [[_, _, region]] = env.sim_env.parsed_problem["goal_state"]
    for seed in range(4):
        positions = begin(env, "spread", seed)
        goal = env.sim_env.sim.data.get_site_xpos(region)[:2]
        for name in ("chocolate_pudding_1", "porcelain_mug_1", "red_coffee_mug_1"):
            assert np.abs(positions[name][:2] - goal).max() > 0.06
    env.close()


def test_a_table_without_room_says_so(crowded, monkeypatch):
    begin(crowded, "official", 0)
    monkeypatch.setattr("fovea.sim.spread.CLEARANCE", 0.5)
    monkeypatch.setattr("fovea.sim.spread.ROUNDS", 1)
    with pytest.raises(FoveaError, match="found none; take --layout drawn"):
        spread(crowded.sim_env, 0)


def test_a_footprint_holds_what_hangs_on_a_body(crowded):
    """The arm's base carries the arm, which reaches over the table."""
    begin(crowded, "official", 0)
    model, data = crowded.model, crowded.data
    base = footprint(model, data, model.body("robot0_base").id)
    hand = data.site_xpos[crowded.sim_env.robots[0].eef_site_id][:2]
    assert (base.low < hand).all()
    assert (hand < base.high).all()
    soup = footprint(model, data, crowded.sim_env.obj_body_id["alphabet_soup_1"])
    assert (soup.high - soup.low > 0.04).all()
    assert (soup.high - soup.low < 0.1).all()


def test_rectangles_meet_where_they_overlap():
    one = Rectangle(np.zeros(2), np.ones(2))
    assert one.meets(one.moved(np.array([0.9, 0.9])))
    assert not one.meets(one.moved(np.array([0.9, 1.1])))
    assert one.meets(one.moved(np.array([0.9, 1.1])).wider(0.11))
