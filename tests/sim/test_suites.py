"""Suites, their official initial states, and the GL they need."""

from __future__ import annotations

import ctypes.util

import numpy as np
import pytest

from fovea.errors import FoveaError
from fovea.sim import get_task, get_tasks, list_suites
from fovea.sim.gl import prepare_gl


def test_every_task_has_its_files():
    assert {suite: len(get_tasks(suite)) for suite in list_suites()} == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 10,
        "libero_90": 90,
    }
    for suite in list_suites():
        for task in get_tasks(suite):
            assert task.bddl_file.is_file()
            states = task.initial_states()
            assert states.shape[0] == 50
            assert np.isfinite(states).all()


def test_a_task_by_number_and_by_name():
    task = get_task("libero_object", 4)
    assert task.language == "pick up the ketchup and place it in the basket"
    assert task.max_steps == 280
    assert get_task("libero_object", task.name) == task
    assert "KITCHEN" not in get_task("libero_90", 0).language


@pytest.mark.parametrize(
    ("suite", "task", "message"),
    [
        ("libero_objekt", 0, "Did you mean 'libero_object'"),
        ("metaworld", 0, "Known: libero_spatial"),
        ("libero_object", 10, "tasks 0 to 9, got 10"),
        ("libero_object", "pick_up_the_ketchup", "Did you mean 'pick_up_the_"),
    ],
)
def test_unknown_names(suite, task, message):
    with pytest.raises(FoveaError, match=message):
        get_task(suite, task)


def test_missing_gl_library_says_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(FoveaError, match="apt-get install libosmesa6"):
        prepare_gl()
