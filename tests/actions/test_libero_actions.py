"""LIBERO's changes of pose and the poses they command: there and back, and as robosuite's controller means them."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from fovea.actions import (
    action_towards,
    axis_angle_to_matrix,
    commanded_pose,
    matrix_to_axis_angle,
    matrix_to_rows,
)
from fovea.actions.se3 import rows_to_matrix
from fovea.errors import FoveaError


def poses(count: int) -> torch.Tensor:
    rows = matrix_to_rows(torch.from_numpy(Rotation.random(count, random_state=1).as_matrix()).float())
    return torch.cat([torch.randn(count, 3), rows, torch.rand(count, 1)], dim=-1)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-4, 0.3, 2.0, math.pi - 1e-4, math.pi])
def test_logarithms_of_rotations_agree_with_scipy(angle):
    axes = torch.nn.functional.normalize(torch.cat([torch.randn(20, 3), torch.eye(3), -torch.eye(3)]), dim=-1)
    matrices = torch.from_numpy(Rotation.from_rotvec((axes * angle).numpy()).as_matrix()).float()
    found = matrix_to_axis_angle(matrices)
    assert torch.allclose(found.norm(dim=-1), torch.full((26,), angle), atol=1e-3)
    assert torch.allclose(axis_angle_to_matrix(found), matrices, atol=1e-5)


def test_a_command_moves_and_turns_in_the_world_s_axes():
    pose = poses(1)
    action = torch.tensor([[1.0, 0.0, -0.5, 0.0, 0.0, 1.0, 1.0]])
    target = commanded_pose(pose, action)
    assert torch.allclose(target[:, :3] - pose[:, :3], torch.tensor([[0.05, 0.0, -0.025]]), atol=1e-6)
    turn = torch.from_numpy(Rotation.from_euler("z", 0.5).as_matrix()).float()
    assert torch.allclose(rows_to_matrix(target[:, 3:9]), turn @ rows_to_matrix(pose[:, 3:9]), atol=1e-5)
    assert target[0, 9] == 1.0  # closed


def test_actions_and_commands_go_there_and_back():
    pose, action = poses(50), torch.rand(50, 7) * 2 - 1
    assert torch.allclose(action_towards(pose, commanded_pose(pose, action)), action, atol=1e-4)


def test_what_one_step_cannot_do_is_cut():
    pose = poses(3)
    far = pose.clone()
    far[:, 0] += 1.0
    action = action_towards(pose, far)
    assert torch.equal(action[:, 0], torch.ones(3))
    assert torch.allclose(action[:, 1:6], torch.zeros(3, 5), atol=1e-3)
    with pytest.raises(FoveaError, match="an action of 7"):
        commanded_pose(pose, torch.zeros(3, 10))
    with pytest.raises(FoveaError, match="two poses of 10"):
        action_towards(pose, action)
