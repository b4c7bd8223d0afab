"""LiberoEnv: repeatable starts, upright pictures, goals that follow the target, errors that explain."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fovea.errors import FoveaError
from fovea.sim import EpisodeStart, LiberoEnv, RenderSettings

OFFICIAL = EpisodeStart("libero_object", 4, 7)
DRAWN = EpisodeStart("libero_object", 4, 3, layout="drawn", target="milk", seed=11)


def fingerprint(env: LiberoEnv, start: EpisodeStart) -> str:
    """A hash over the first observation and over what ten actions make of it."""
    env.reset(start)
    digest = hashlib.sha256()
    for _ in range(2):
        observation = env.observe()
        digest.update(observation.pop("task").encode())
        for key in sorted(observation):
            digest.update(observation[key].tobytes())
        digest.update(env.data.qpos.tobytes())
        for _ in range(10):
            env.step(np.array([0.2, 0.1, -0.5, 0, 0, 0.3, 1]))
    return digest.hexdigest()


@pytest.mark.parametrize("start", [OFFICIAL, DRAWN])
def test_same_start_same_episode_in_a_used_environment(object_env, start):
    first = fingerprint(object_env, start)
    object_env.reset(EpisodeStart("libero_object", 4, 20, layout="drawn", seed=5))
    for _ in range(15):
        object_env.step(np.array([-0.5, 0.5, 0.5, 0.3, 0, 0, 1]))
    assert fingerprint(object_env, start) == first


def test_same_start_same_episode_in_a_fresh_process(object_env):
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[1]);"
        "from test_env import *; env = LiberoEnv('libero_object', 4, seed=3);"
        "print(json.dumps([fingerprint(env, s) for s in (OFFICIAL, DRAWN)]))"
    )
    folder = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert "WARNING" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [fingerprint(object_env, s) for s in (OFFICIAL, DRAWN)]


def test_fixtures_stand_where_the_seed_puts_them(spatial_env):
    def fixtures(seed: int) -> np.ndarray:
        spatial_env.reset(EpisodeStart("libero_spatial", 0, 0, seed=seed))
        return np.stack(
            [p for n, p in spatial_env.object_positions().items() if n.startswith(("wooden", "flat"))]
        )

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(fixtures(0), fixtures(0))
    assert not np.array_equal(fixtures(0), fixtures(1))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_drawn_layouts_of_other_suites_keep_to_the_regions_of_the_bddl_file(spatial_env, asset_cache):
    def draw(env: LiberoEnv, seed: int) -> dict[str, np.ndarray]:
        env.reset(EpisodeStart(env.task.suite, env.task.task_id, 0, layout="drawn", seed=seed))
        assert not env.success
        return env.object_positions()

    drawn = [draw(spatial_env, seed) for seed in (0, 1, 0)]
    for name in spatial_env.sim_env.objects_dict:
        assert not np.array_equal(drawn[0][name], drawn[1][name])
        np.testing.assert_array_equal(drawn[0][name], drawn[2][name])
    regions = spatial_env.sim_env.parsed_problem["regions"]
    places = {name: region for _, name, region in spatial_env.sim_env.parsed_problem["initial_state"]}
    for positions in drawn:
        (low_x, low_y, high_x, high_y), *_ = regions[places["akita_black_bowl_1"]]["ranges"]
        x, y, _ = positions["akita_black_bowl_1"]
        assert low_x - 0.01 <= x <= high_x + 0.01
        assert low_y - 0.01 <= y <= high_y + 0.01


def test_what_stands_on_furniture_is_drawn_onto_it_in_a_used_environment_too(asset_cache):
    """libero_spatial task 9: the bowl on the cabinet, which moves from reset to reset."""
    start = EpisodeStart("libero_spatial", 9, 0, layout="drawn", seed=7)
    env = LiberoEnv("libero_spatial", 9, seed=3)
    for seed in range(3):
        env.reset(EpisodeStart("libero_spatial", 9, 0, seed=seed))
    env.reset(start)
    positions = env.object_positions()
    bowl, cabinet = positions["akita_black_bowl_1"], positions["wooden_cabinet_1"]
    assert np.linalg.norm((bowl - cabinet)[:2]) < 0.1
    assert bowl[2] > cabinet[2] + 0.15
    used = env.data.qpos.copy()
    env.close()
    fresh = LiberoEnv("libero_spatial", 9, seed=8)
    fresh.reset(start)
    np.testing.assert_array_equal(fresh.data.qpos, used)
    fresh.close()


def test_observation(object_env):
    object_env.reset(OFFICIAL)
    observation = object_env.observe()
    assert observation["task"] == "pick up the ketchup and place it in the basket"
    for key in ("image", "image2"):
        picture = observation[f"observation.images.{key}"]
        assert picture.shape == (128, 128, 3)
        assert picture.dtype == np.uint8
    state = observation["observation.state"]
    assert state.shape == (8,)
    assert state.dtype == np.float32
    hand = object_env.model.body("robot0_right_hand").id
    rotation = Rotation.from_matrix(object_env.data.xmat[hand].reshape(3, 3))
    assert (Rotation.from_rotvec(state[3:6]).inv() * rotation).magnitude() < 1e-5
    height = state[2]
    object_env.step(np.array([0, 0, 1, 0, 0, 0, -1]))
    assert object_env.state()[2] > height


def test_pictures_are_upright_and_mirrored_as_in_public_data_sets(object_env):
    """Seen from agentview the arm stands at the top, and the basket (world +y, physically right) on the left."""
    object_env.reset(OFFICIAL)
    masks = object_env.segmentation("agentview")
    rows, columns = np.nonzero(masks == object_env.object_names.index("basket_1"))
    assert columns.mean() < 64 < rows.mean()
    picture = object_env.image("agentview").astype(int)
    assert np.ptp(picture[:32], axis=2).mean() < np.ptp(picture[-32:], axis=2).mean()  # grey arm, brown floor


def test_segmentation_matches_the_picture(object_env):
    object_env.reset(OFFICIAL)
    masks = object_env.segmentation("image")
    assert masks.dtype == np.int16
    assert set(np.unique(masks)) == set(range(-1, len(object_env.object_names)))
    before = object_env.image("image")
    joint = object_env.model.body_jntadr[object_env.sim_env.obj_body_id["milk_1"]]
    object_env.data.qpos[object_env.model.jnt_qposadr[joint] + 2] -= 5
    object_env.sim_env.sim.forward()
    changed = np.abs(object_env.image("image").astype(int) - before).sum(2) > 25
    inside = masks == object_env.object_names.index("milk_1")
    assert (changed & inside).sum() > 0.7 * max(changed.sum(), inside.sum())


def test_two_environments_keep_their_pictures_apart(object_env):
    object_env.reset(OFFICIAL)
    alone = object_env.image("image")
    other = LiberoEnv("libero_object", 4, render=RenderSettings(image_size=64))
    other.reset(DRAWN)
    assert other.image("image").shape == (64, 64, 3)
    np.testing.assert_array_equal(object_env.image("image"), alone)
    other.close()
    other.close()
    np.testing.assert_array_equal(object_env.image("image"), alone)


def test_drawn_layouts(object_env):
    seen = []
    for seed in range(4):
        object_env.reset(EpisodeStart("libero_object", 4, 0, layout="drawn", seed=seed))
        positions = object_env.object_positions()
        basket = positions.pop("basket_1")[:2]
        points = np.stack([p[:2] for p in positions.values()])
        distances = np.linalg.norm(points[:, None] - points, axis=2) + np.eye(len(points))
        assert distances.min() > 0.10
        assert np.linalg.norm(points - basket, axis=1).min() > 0.16
        assert (points > (-0.24, -0.29)).all()
        assert (points < (0.18, 0.10)).all()
        assert not object_env.success
        seen.append(points)
    assert len({s.tobytes() for s in seen}) == 4


def test_the_goal_follows_the_target(object_env):
    def drop_into_basket(name: str) -> bool:
        address = object_env.model.jnt_qposadr[
            object_env.model.body_jntadr[object_env.sim_env.obj_body_id[name]]
        ]
        basket = object_env.object_positions()["basket_1"]
        object_env.data.qpos[address : address + 3] = basket + np.array([0, 0, 0.08])
        return any(object_env.step(np.array([0, 0, 0, 0, 0, 0, -1.0])) for _ in range(20))

    object_env.reset(DRAWN)
    assert object_env.instruction == "pick up the milk and place it in the basket"
    assert drop_into_basket("milk_1")
    assert object_env.success
    object_env.reset(OFFICIAL)
    assert object_env.instruction == "pick up the ketchup and place it in the basket"
    assert not object_env.success
    assert not drop_into_basket("milk_1")
    object_env.reset(OFFICIAL)
    assert drop_into_basket("ketchup_1")


def test_steps_that_make_no_sense(object_env):
    object_env.reset(OFFICIAL)
    with pytest.raises(FoveaError, match=r"7 numbers.*\(6,\)"):
        object_env.step(np.zeros(6))
    with pytest.raises(FoveaError, match="finite"):
        object_env.step(np.array([0, 0, np.nan, 0, 0, 0, 1]))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (EpisodeStart("libero_object", 5, 0), "make another environment"),
        (EpisodeStart("libero_object", 4, 50), "states 0 to 49, got 50"),
        (EpisodeStart("libero_object", 4, 0, layout="drawn", target="milkk"), "Did you mean 'milk'"),
        (EpisodeStart("libero_object", 4, 0, layout="drawn", target="basket"), "not in this scene"),
    ],
)
def test_starts_that_do_not_fit(object_env, start, message):
    with pytest.raises(FoveaError, match=message):
        object_env.reset(start)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layout": "random"}, "official, drawn, spread, got 'random'"),
        ({"layout": "spread"}, "drawn spreads the objects of libero_object over the floor already"),
        ({"suite": "libero_spatial", "layout": "spread"}, "name a bowl by where it is"),
        ({"suite": "libero_goal", "layout": "drawn", "target": "milk"}, "defined for libero_object"),
        ({"target": "milk"}, "layout='drawn' only"),
        ({"seed": -1}, "seed is 0"),
    ],
)
def test_starts_that_make_no_sense(wrong, message):
    with pytest.raises(FoveaError, match=message):
        EpisodeStart(**{"suite": "libero_object", "task_id": 4, "init_state": 0} | wrong)


def test_descriptions_survive_json():
    settings = RenderSettings(image_size=96, msaa=0)
    assert RenderSettings(**json.loads(json.dumps(settings.asdict()))) == settings
    assert EpisodeStart(**json.loads(json.dumps(DRAWN.asdict()))) == DRAWN


def test_unknown_camera(object_env):
    with pytest.raises(FoveaError, match="Did you mean 'agentview'"):
        object_env.image("agentviev")


def test_settings_are_checked():
    for wrong in ({"image_size": 4}, {"target_error": -0.1}, {"error_max": 0}, {"msaa": -1}):
        with pytest.raises(FoveaError, match=next(iter(wrong))):
            RenderSettings(**wrong)
