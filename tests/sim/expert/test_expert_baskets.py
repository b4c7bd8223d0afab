"""The scripted expert: it solves real episodes, comes back from disturbances, and says what it cannot do."""

import numpy as np
import pytest

from fovea.sim import EpisodeStart, LiberoEnv
from fovea.sim.expert import Expert, UnsupportedGoal


@pytest.fixture(scope="module")
def env():
    scene = LiberoEnv("libero_object", 0)
    yield scene
    scene.close()


def play(env: LiberoEnv, disturb=None) -> int | None:
    expert = Expert(env)
    for step in range(env.max_steps):
        action = expert.act()
        assert action.shape == (7,)
        assert np.abs(action).max() <= 1
        if disturb is not None:
            action = disturb(step, action, expert)
        if env.step(action):
            return step + 1
    return None


def test_it_solves_an_official_state_in_time(env):
    env.reset(EpisodeStart("libero_object", 0, 3))
    assert play(env) is not None


def test_it_picks_another_object_where_positions_are_drawn_anew(env):
    env.reset(EpisodeStart("libero_object", 0, 5, layout="drawn", target="milk", seed=11))
    assert play(env) is not None
    milk, basket = env.object_positions()["milk_1"], env.object_positions()["basket_1"]
    assert np.linalg.norm(milk[:2] - basket[:2]) < 0.08


def test_it_opens_again_after_fingers_that_closed_on_nothing_and_still_succeeds(env):
    env.reset(EpisodeStart("libero_object", 0, 1))
    opened = []

    def clench(step, action, expert):
        if 8 <= step < 18:
            opened.append(action[6] < 0)
            action = action.copy()
            action[6] = 1.0
        return action

    assert play(env, clench) is not None
    assert all(opened)  # the label says open while a disturbance closes


def test_it_picks_up_again_what_was_dropped(env):
    env.reset(EpisodeStart("libero_object", 0, 2))
    dropped = []

    def drop(step, action, expert):
        if expert.holding and len(dropped) < 5 and expert.scene.position[2] > 0.12:
            dropped.append(step)
            action = action.copy()
            action[6] = -1.0
        return action

    assert play(env, drop) is not None
    assert len(dropped) == 5


def test_a_goal_without_a_skill_is_refused_by_name(env):
    env.reset(EpisodeStart("libero_object", 0, 0))
    env.sim_env.parsed_problem["goal_state"] = [["open", "basket_1"]]
    with pytest.raises(UnsupportedGoal, match=r"got \(open basket_1\)"):
        Expert(env)
