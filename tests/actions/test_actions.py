"""Poses there and back, rotations averaged on SO(3), ensembles weighted as they say."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from fovea.actions import (
    ChunkEnsemble,
    absolute_chunk,
    axis_angle_to_matrix,
    matrix_to_rows,
    relative_chunk,
)
from fovea.actions.se3 import average_rotations, rows_to_matrix
from fovea.errors import FoveaError


def poses(*lead: int) -> torch.Tensor:
    rows = matrix_to_rows(axis_angle_to_matrix(torch.randn(*lead, 3)))
    return torch.cat([torch.randn(*lead, 3), rows, torch.rand(*lead, 1)], dim=-1)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-3, 1.0, math.pi])
def test_rotation_matrices_agree_with_scipy(scale):
    rotation = torch.nn.functional.normalize(torch.randn(20, 3), dim=-1) * scale
    expected = torch.from_numpy(Rotation.from_rotvec(rotation.numpy()).as_matrix()).float()
    assert torch.allclose(axis_angle_to_matrix(rotation), expected, atol=1e-5)
    assert torch.allclose(rows_to_matrix(matrix_to_rows(expected)), expected, atol=1e-5)


def test_relative_chunks_go_there_and_back():
    current, targets = poses(4), poses(4, 12)
    chunk = relative_chunk(current, targets)
    assert torch.allclose(absolute_chunk(current, chunk), targets, atol=1e-5)
    still = relative_chunk(current, current[:, None])
    assert torch.allclose(still[..., :3], torch.zeros(4, 1, 3), atol=1e-6)
    assert torch.allclose(still[..., 3:9], torch.tensor([1.0, 0, 0, 0, 1, 0]).expand(4, 1, 6), atol=1e-5)
    assert torch.equal(chunk[..., 9], targets[..., 9])
    with pytest.raises(FoveaError, match="poses of 10 numbers"):
        relative_chunk(current[:, :7], targets)


def test_a_relative_step_is_in_the_end_effector_frame():
    turned = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    current = torch.cat([torch.zeros(3), matrix_to_rows(torch.from_numpy(turned).float()), torch.zeros(1)])
    target = current.clone()
    target[0] = 1.0  # world x is the gripper's minus y
    assert torch.allclose(
        relative_chunk(current, target[None])[0, :3], torch.tensor([0.0, -1.0, 0.0]), atol=1e-6
    )


def test_rotations_are_averaged_on_so3():
    angles = torch.tensor([170.0, -170.0]) / 180 * math.pi  # their plain mean would be no turn at all
    turns = axis_angle_to_matrix(torch.stack([torch.zeros(2), torch.zeros(2), angles], -1))
    mean = average_rotations(turns, torch.tensor([1.0, 1.0]))
    assert torch.allclose(mean, axis_angle_to_matrix(torch.tensor([0.0, 0.0, math.pi])), atol=1e-5)
    tilted = average_rotations(turns, torch.tensor([3.0, 1.0]))
    assert torch.allclose(torch.det(tilted), torch.tensor(1.0))
    assert not torch.allclose(tilted, mean, atol=1e-3)


def test_means_of_opposite_rotations_are_rotations():
    """Half a turn apart, every axis is as good: the mean must be some rotation, not a matrix of zeros."""
    for axis in torch.eye(3):
        turns = axis_angle_to_matrix(torch.stack([torch.zeros(3), axis * math.pi]))
        mean = average_rotations(turns, torch.ones(2))
        assert torch.allclose(mean @ mean.T, torch.eye(3), atol=1e-5)
        assert torch.allclose(torch.det(mean), torch.tensor(1.0), atol=1e-5)


def test_the_mean_is_that_of_quaternions_whatever_their_signs():
    turns = Rotation.random(5, random_state=3)
    near = Rotation.from_rotvec(0.4 * turns.as_rotvec())
    weights = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15])
    expected = near.mean(weights.numpy()).as_matrix()  # scipy: of quaternions, q and -q being the same
    mean = average_rotations(torch.from_numpy(near.as_matrix()).float(), weights)
    assert torch.allclose(mean, torch.from_numpy(expected).float(), atol=1e-5)


@pytest.mark.parametrize(("weighting", "sign"), [("newest", 1.0), ("oldest", -1.0)])
def test_ensembles_weigh_chunks_by_age(weighting, sign):
    ensemble = ChunkEnsemble(weighting, 0.3)
    chunks = torch.randn(5, 3, 7)
    for now in range(5):
        action = ensemble.push(chunks[now])
        covering = [k for k in range(5) if 0 <= now - k < 3]  # oldest first
        votes = torch.stack([chunks[k][now - k] for k in covering])
        weights = torch.exp(sign * 0.3 * torch.arange(len(covering)))
        assert torch.allclose(action, (weights @ votes) / weights.sum(), atol=1e-6)


@pytest.mark.parametrize(("weighting", "c"), [("newest", 0.05), ("oldest", -0.01)])
def test_conventions_have_their_own_coefficients(weighting, c):
    ensemble = ChunkEnsemble(weighting)
    chunks = torch.randn(2, 2, 3)
    ensemble.push(chunks[0])
    weights = torch.softmax(c * torch.arange(2.0), 0)
    assert torch.allclose(ensemble.push(chunks[1]), weights @ torch.stack([chunks[0][1], chunks[1][0]]))


def test_ensembles_of_poses_stay_rotations():
    ensemble = ChunkEnsemble("newest", 0.0, poses=True)
    ensemble.push(poses(3))
    rows = ensemble.push(poses(3))[3:9].view(2, 3)
    assert torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-5)
    with pytest.raises(FoveaError, match="poses of 10"):
        ChunkEnsemble("newest", 0.0, poses=True).push(torch.zeros(3, 7))
    with pytest.raises(FoveaError, match="newest or oldest"):
        ChunkEnsemble("median", 0.0)
