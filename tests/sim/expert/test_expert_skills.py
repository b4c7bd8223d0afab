"""Every skill of the expert in one scene: libero_goal's cabinet, stove, plate, bowl and bottle."""

import numpy as np
import pytest

from fovea.sim import EpisodeStart, LiberoEnv
from fovea.sim.expert import Expert
from fovea.sim.expert.articulated import Shut, TurnKnob
from fovea.sim.expert.placing import PickAndPlace
from fovea.sim.expert.plan import Unless, plan
from fovea.sim.expert.scene import Scene

BOWL, PLATE, TOP = "akita_black_bowl_1", "plate_1", "wooden_cabinet_1_top_region"


@pytest.fixture(scope="module")
def goal_env(asset_cache):
    env = LiberoEnv("libero_goal", 0)
    yield env
    env.close()


def start(env: LiberoEnv, *goal: tuple[str, ...], state: int = 0) -> None:
    """One of task 0's initial states with another goal: all tasks of libero_goal share the scene."""
    env.reset(EpisodeStart("libero_goal", 0, state))
    env.sim_env.parsed_problem["goal_state"] = [list(part) for part in goal]


def play(env: LiberoEnv, disturb=None, steps: int | None = None) -> Expert:
    """Act until the goal holds and eight steps beyond, as demonstrations do."""
    expert, left = Expert(env), 8
    for step in range(steps or env.max_steps):
        action = expert.act()
        assert np.abs(action).max() <= 1
        if disturb is not None:
            action = disturb(step, action, expert)
        left -= env.step(action) or left < 8
        if not left:
            return expert
    pytest.fail("the goal was not reached in time")


@pytest.mark.parametrize(
    "goal",
    [
        ("open", "wooden_cabinet_1_middle_region"),
        ("turnon", "flat_stove_1"),
        ("on", "plate_1", "main_table_stove_front_region"),
    ],
    ids=lambda goal: goal[0],
)
def test_it_opens_a_drawer_turns_a_knob_and_drags_a_plate(goal_env, goal):
    start(goal_env, goal)
    play(goal_env)
    assert goal_env.success


def test_it_opens_the_drawer_and_puts_the_bowl_inside(goal_env):
    start(goal_env, ("in", BOWL, TOP))
    expert = play(goal_env)
    assert expert.scene.joint_position(expert.scene.joint_of(TOP)) < -0.13
    assert goal_env.success
    assert not expert.holding  # the bowl is let go within the recorded tail


def test_a_bowl_that_was_dropped_is_picked_up_again_and_put_on_the_plate(goal_env):
    start(goal_env, ("on", BOWL, PLATE), state=1)
    dropped = []

    def drop(step, action, expert):
        lifted = expert.scene.object_position(BOWL)[2] > 0.92
        if expert.holding and len(dropped) < 5 and (dropped or lifted):
            dropped.append(step)
            action = action.copy()
            action[6] = -1.0
        return action

    play(goal_env, drop)
    assert len(dropped) == 5
    bowl, plate = goal_env.object_positions()[BOWL], goal_env.object_positions()[PLATE]
    assert np.linalg.norm(bowl[:2] - plate[:2]) < 0.03


def test_a_plan_opens_before_it_puts_in_and_shuts_afterwards(goal_env):
    start(goal_env, ("close", TOP), ("in", BOWL, TOP), ("turnon", "flat_stove_1"))
    skills = plan(Scene(goal_env))
    assert [type(skill) for skill in skills] == [TurnKnob, Unless, PickAndPlace, Shut]


def test_two_things_for_one_place_get_a_side_each(goal_env):
    cook = "flat_stove_1_cook_region"
    start(goal_env, ("on", BOWL, cook), ("on", "cream_cheese_1", cook))
    first, second = (skill.destination for skill in plan(Scene(goal_env)))
    sides = [{tuple(np.sign(spot[:1])) for spot in place.spots()} for place in (first, second)]
    assert sides[0].isdisjoint(sides[1])
