"""The geometry of hands and of what they grasp."""

import numpy as np
import pytest

from fovea.sim.expert.grasp import down, hand_clearance, leaning, nearest_down, turn_between
from fovea.sim.expert.motion import highest_on_way, split
from fovea.sim.expert.rims import opening


def test_the_hand_turns_the_shorter_way():
    current = down(np.pi / 2)
    for yaw in np.linspace(-3, 3, 13):
        turn = turn_between(current, nearest_down(current, float(yaw)))
        assert np.linalg.norm(turn) <= np.pi / 2 + 1e-6


@pytest.mark.parametrize("lean", [0.0, 0.5, -0.8])
def test_a_leaning_hand_points_to_the_left_of_its_heading(lean):
    rotation = leaning(down(0.3), 0.0, lean)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation[:, 2], [0, np.sin(lean), -np.cos(lean)], atol=1e-12)
    assert rotation[:, 0] @ down(0.3)[:, 0] > 0  # the nearer of the two that close along the heading


def test_a_mug_is_open_in_its_middle_whatever_its_handle_does_to_its_outline():
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rim = np.stack([0.05 * np.cos(angles), 0.05 * np.sin(angles), np.full(60, 0.1)], 1)
    handle = np.stack([np.linspace(0.05, 0.09, 8), np.zeros(8), np.full(8, 0.1)], 1)
    bottom = np.array([[0.0, 0.0, 0.0]])
    centre, radius = opening(np.concatenate([rim, handle, bottom]))
    assert np.linalg.norm(centre) < 0.01
    assert radius == pytest.approx(0.05, abs=0.01)


def test_what_stands_between_hand_and_goal_is_found_by_its_height():
    wall = np.array([[0.5, 0.02, 0.3], [0.5, 0.3, 0.9]])
    assert highest_on_way(wall, np.zeros(3), np.array([1.0, 0, 0]), width=0.05) == 0.3
    assert highest_on_way(wall, np.zeros(3), np.array([0.2, 0, 0]), width=0.05) == -np.inf


def test_clearance_sees_the_hand_above_the_fingers_and_not_what_is_between_them():
    grip, pointing_down = np.zeros(3), down(0.0)
    assert hand_clearance(grip, pointing_down, np.array([[0.0, 0.0, 0.0]])) > 0.01
    assert hand_clearance(grip, pointing_down, np.array([[0.08, 0.0, 0.1]])) == 0
    assert hand_clearance(grip, pointing_down, np.array([[0.15, 0.0, 0.1]])) == pytest.approx(0.045)


def test_an_error_splits_into_what_is_ahead_and_what_is_aside():
    assert split(np.array([3.0, 4.0, -2.0]), np.array([0.0, 0.0, -1.0])) == (2.0, 5.0)
