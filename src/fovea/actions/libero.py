"""LIBERO's changes of pose to commanded poses and back, so that both action spaces are offered there.

LIBERO's controller (robosuite's OSC_POSE) adds a scaled change to the pose the arm has: 1 is 5 cm, or 0.5 rad about an
axis of the WORLD. Its command at a step is therefore the pose of that step, moved by that step's action.

Shape letters: ... leading axes. Actions are (..., 7): 3 position, 3 axis-angle, gripper -1 open, +1 close. Poses are
(..., 10), see `actions.se3`, with a gripper of 0 (open) to 1 (closed).
"""

import torch
from torch import Tensor

from fovea.actions.se3 import (
    POSE_SIZE,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rows,
    rows_to_matrix,
)
from fovea.errors import FoveaError

METRES, RADIANS = 0.05, 0.5  # of an action of 1
ACTION_SIZE = 7


def commanded_pose(pose: Tensor, action: Tensor) -> Tensor:
    """The absolute pose that an action asks for: (..., 10) and (..., 7) -> (..., 10).

    Args:
        pose: what the arm has (its gripper is not read).
        action: LIBERO's; what lies beyond [-1, 1] is cut, as the controller does.
    """
    _check(pose, action)
    action = action.clamp(-1, 1)
    turn = axis_angle_to_matrix(action[..., 3:6] * RADIANS)
    rows = matrix_to_rows(turn @ rows_to_matrix(pose[..., 3:9]))
    return torch.cat([pose[..., :3] + METRES * action[..., :3], rows, (action[..., 6:] + 1) / 2], dim=-1)


def action_towards(pose: Tensor, target: Tensor) -> Tensor:
    """The action that asks for `target`, or for as much of it as one step allows: (..., 10) twice -> (..., 7)."""
    if pose.shape[-1] != POSE_SIZE or target.shape[-1] != POSE_SIZE:
        raise FoveaError(
            f"expected two poses of {POSE_SIZE} numbers, got {pose.shape[-1]} and {target.shape[-1]}"
        )
    turn = rows_to_matrix(target[..., 3:9]) @ rows_to_matrix(pose[..., 3:9]).transpose(-1, -2)
    move = (target[..., :3] - pose[..., :3]) / METRES
    change = torch.cat([move, matrix_to_axis_angle(turn) / RADIANS, target[..., 9:] * 2 - 1], dim=-1)
    return change.clamp(-1, 1)


def _check(pose: Tensor, action: Tensor) -> None:
    if pose.shape[-1] != POSE_SIZE or action.shape[-1] != ACTION_SIZE:
        raise FoveaError(
            f"expected a pose of {POSE_SIZE} numbers and an action of {ACTION_SIZE}, got {pose.shape[-1]} and "
            f"{action.shape[-1]}"
        )
