"""Unseen tasks: the files are what their command writes; scenes load, vary, and their goals can be reached."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from fovea.errors import FoveaError
from fovea.pipelines.first import FirstConfig
from fovea.sim import EpisodeStart, LiberoEnv, bddl, get_task, get_tasks, registry, unseen
from fovea.sim.sheet import sheet

STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])
TABLE_3 = [  # EF-VLA's words, in lower case as all of LIBERO's instructions
    "put the moka pot in the bottom drawer of the cabinet",
    "put the moka pot on the wine rack",
    "pick up the ketchup and put it in the basket",
    "pick up the ketchup on the plate",
    "pick up the bottle and put it in the tray",
    "put the black bowl on top of the cabinet",
    "put the black bowl on the plate",
    "put the red mug to the right of the plate",
    "put the yellow and white mug in the front of the red mug",
    "put the red mug to the front of the moka",
]
# where the goal wants an object, for places whose middle is not free: shift (m) and rotation (wxyz)
LYING = (0.5, 0.5, 0.5, 0.5)
SHIFTS: dict[int, tuple[tuple[float, float, float], tuple[float, ...] | None]] = {
    0: ((0, 0, 0.1), LYING),  # standing, the pot is higher than the drawer
    1: ((0, 0, 0.29), None),  # on the upper shelf
    7: ((0, 0.045, 0.01), None),  # the plate covers half of the region
    8: ((0.045, 0, 0.01), None),
    9: ((0.045, 0, 0.01), None),
}


def test_the_tasks_are_those_of_the_paper():
    assert [task.language for task in get_tasks("fovea_unseen")] == TABLE_3
    assert {task.max_steps for task in get_tasks("fovea_unseen")} == {400}


def test_held_out_targets_are_those_that_the_study_never_trains():
    tasks = get_tasks("libero_object_holdout")
    targets = [task.language.removeprefix("pick up the ").split(" and place")[0] for task in tasks]
    assert {target.replace(" ", "_") for target in targets} == set(FirstConfig().holdout)
    assert {task.max_steps for task in tasks} == {280}
    assert len(tasks) == 10


@pytest.mark.parametrize("suite", unseen.SUITES)
def test_the_shipped_files_are_what_the_command_writes(suite):
    edits = unseen.SUITES[suite][1]()
    assert [edit.name for edit in edits] == [task.name for task in get_tasks(suite)]
    for edit, task in zip(edits, get_tasks(suite), strict=True):
        assert task.bddl_file.read_text() == edit.text()
    shipped = {file.name for file in (registry.OWN_SUITES / suite).iterdir()}
    assert len(shipped) == 2 * len(edits) + 1
    task = get_tasks(suite)[-1]
    np.testing.assert_array_equal(
        unseen.draw_states(edits[-1], task.bddl_file, count=1), task.initial_states()[:1]
    )


@pytest.mark.parametrize("suite", unseen.SUITES)
def test_every_initial_state_is_another(suite):
    for task in get_tasks(suite):
        states = task.initial_states()
        assert len(states) == 20
        assert len(np.unique(states[:, 1:], axis=0)) == 20


@pytest.fixture(
    params=[("fovea_unseen", n) for n in range(10)] + [("libero_object_holdout", n) for n in (0, 1, 6)]
)
def env(request: pytest.FixtureRequest) -> Iterator[LiberoEnv]:
    env = LiberoEnv(*request.param)
    yield env
    env.close()


def pose(env: LiberoEnv, name: str) -> np.ndarray:
    """An object's position and rotation (7,), to be written to."""
    address = env.model.jnt_qposadr[env.model.body_jntadr[env.sim_env.obj_body_id[name]]]
    return env.data.qpos[address : address + 7]


def test_a_scene_loads_varies_and_can_be_solved(env):
    suite, number = env.task.suite, env.task.task_id
    objects = list(env.sim_env.objects_dict)
    [[_, target, place]] = env.sim_env.parsed_problem["goal_state"]

    def begin(**start: object) -> np.ndarray:
        env.reset(EpisodeStart(suite, number, **({"init_state": 3} | start)))
        assert not env.success
        assert env.instruction == get_task(suite, number).language
        return np.stack([pose(env, name) for name in objects])

    # what stands somewhere stays there, wherever the furniture is drawn; drawn layouts are other ones
    first, other = begin(seed=11), begin(seed=12)
    stored = env.task.initial_states()[3]
    np.testing.assert_allclose(first[:, :3], other[:, :3], atol=0.03)
    env.data.qpos[:] = stored[1 : 1 + env.model.nq]
    np.testing.assert_allclose(first[:, :2], [pose(env, name)[:2] for name in objects], atol=0.03)
    drawn = [begin(layout="drawn", seed=seed) for seed in (1, 2, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    moved = [name for name, a, b in zip(objects, *drawn[:2], strict=True) if not np.array_equal(a[:2], b[:2])]
    assert target in moved
    for _ in range(10):
        env.step(STILL)
    np.testing.assert_allclose(drawn[2][:, :3], [pose(env, name)[:3] for name in objects], atol=0.03)

    # the goal holds once the target is where it says
    begin()
    sites = env.sim_env.object_sites_dict
    where = env.sim_env.sim.data.get_site_xpos(place) if place in sites else env.object_positions()[place]
    shift, rotation = (
        SHIFTS.get(number, ((0, 0, 0.03), None)) if suite == "fovea_unseen" else ((0, 0, 0.03), None)
    )
    pose(env, target)[:3] = (
        where + shift - env.sim_env.objects_dict[target].bottom_offset * (rotation is None)
    )
    if rotation is not None:
        pose(env, target)[3:] = rotation
    env.data.qvel[:] = 0
    assert any(env.step(STILL) for _ in range(20))


def test_edits_of_task_files():
    text = get_task("libero_90", "KITCHEN_SCENE7_put_the_white_bowl_on_the_plate").bddl_file.read_text()
    red = bddl.retype(text, {"white_bowl": "red_bowl"})
    assert "white_bowl" not in red
    assert "(On red_bowl_1 plate_1)" in red
    assert bddl.retarget(text, "plate_1", "microwave_1").count("(On white_bowl_1 microwave_1)") == 1
    assert "(0 0.1 0.2 0.3)" in bddl.move(text, "plate_init_region", (0, 0.1, 0.2, 0.3))
    assert "(:language look)" in bddl.say(text, "look")
    for wrong, message in (
        (lambda: bddl.retype(text, {"milk": "butter"}), "with milk"),
        (lambda: bddl.retype(text, {"white_bowl": "plate"}), "without plate"),
        (lambda: bddl.retarget(text, "white_bowl_1", "milk_1"), "expected milk_1"),
        (lambda: bddl.retarget(text, "microwave_1", "plate_1"), "expected microwave_1 in the task's goal"),
        (lambda: bddl.move(text, "milk_init_region", (0, 0, 1, 1)), "milk_init_region"),
    ):
        with pytest.raises(FoveaError, match=message):
            wrong()


def test_the_sheet_shows_every_picture_with_its_number():
    red, blue = (np.full((32, 32, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    image = np.asarray(sheet({"one": [("a", red)] * 6, "two": [("b", blue)]}, 32)).astype(int)
    assert (image == (200, 0, 0)).all(2).sum() == 6 * 32 * 32
    assert (image == (0, 0, 200)).all(2).sum() == 32 * 32


def test_the_sheet_in_the_docs_is_small_and_complete():
    file = registry.OWN_SUITES.parents[3] / "docs" / "images" / "unseen_tasks.jpg"
    assert file.stat().st_size < 400_000
    with Image.open(file) as image:
        assert image.width > 1000
