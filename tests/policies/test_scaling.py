"""How data are scaled: in whatever unit actions are, and twice as once."""

import numpy as np
import pytest

from fovea.errors import FoveaError
from fovea.policies.data_checks import check_gripper, check_pose_state
from fovea.policies.statistics import adjusted

RELATIVE = ["symmetric", "symmetric_but_gripper", "action_quantiles", "quantiles_but_gripper"]


def column(scale, gripper=1.0, **changes):
    """Two motions, one of which hardly moves, and a gripper."""
    edge = np.array([scale, 0.01 * scale, gripper])
    return {"min": -2 * edge, "max": 2 * edge, "q01": -0.9 * edge, "q99": 0.9 * edge} | changes


@pytest.mark.parametrize("rule", RELATIVE)
@pytest.mark.parametrize(
    ("scale", "gripper", "least"),
    [(0.005, 1.0, 0.05 * 0.0045), (0.02, 85.0, 0.05 * 0.018), (1.5, 850.0, 0.05), (1.0, 1.0, 0.05 * 0.9)],
)
def test_what_hardly_moves_is_measured_by_what_moves_most(rule, scale, gripper, least):
    once = adjusted({"action": column(scale, gripper)}, {"action": rule})["action"]
    assert np.allclose(once["q99"][:2], [0.9 * scale, least])  # neither the gripper nor extremes play a part
    twice = adjusted({"action": once}, {"action": rule})["action"]
    for name in ("q01", "q99"):
        assert np.allclose(twice[name], once[name])


def test_actions_that_never_move_do_not_divide_by_nothing():
    still = {name: np.zeros(3) for name in ("min", "max", "q01", "q99")}
    for rule in RELATIVE:
        assert (adjusted({"action": still}, {"action": rule})["action"]["q99"] > 0).all()


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-0.4, 0.6), (-1.0, 0.0), (0.0, 85.0), (-1.0, 0.98), (-0.98, 1.0)]
)
def test_a_gripper_of_another_kind_is_refused(low, high):
    with pytest.raises(FoveaError, match="set --gripper=x for another kind"):
        check_gripper({"action": {"min": [0.0, low], "max": [0.0, high]}}, "--gripper=x")


def test_grippers_that_open_and_close_pass():
    for low, high in ((-1.0, 1.0), (-1.0, -1.0), (1.0, 1.0), (-0.995, 0.995), (-1.005, 1.005)):
        stats = {"action": {"min": [0.0, low], "max": [0.0, high]}}
        assert check_gripper(stats, "--gripper=x") is None
    assert check_gripper(None, "--gripper=x") is None


def test_joint_angles_are_no_position_and_axis_angle():
    mean = np.array([0.4, 0.0, 0.9, 3.0, 0.1, 0.1, 0.03, -0.03])
    check_pose_state({"observation.state": {"mean": mean, "min": mean - 0.2, "max": mean + 0.2}})
    check_pose_state({"observation.state": {"mean": mean}})
    joints = np.array([0.1, -0.4, 0.0, -2.0, 0.0, 1.6, 0.8, 0.04])
    with pytest.raises(FoveaError, match="state_layout=as_is"):
        check_pose_state({"observation.state": {"mean": joints, "min": joints - 1, "max": joints + 1}})
    degrees = mean * 57
    with pytest.raises(FoveaError, match="rotations of up to"):
        check_pose_state({"observation.state": {"mean": mean, "min": mean, "max": degrees}})
