"""Poses, relative chunks and rotations (EF-VLA, appendix B).

Shape letters: ... leading axes, H horizon. A pose is (..., 10): 3 position in metres, 6 rotation (first two
ROWS of the matrix, flattened), 1 absolute gripper. Matrices (..., 3, 3) act on columns; angles in radians.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fovea.errors import FoveaError

POSE_SIZE = 10


def axis_angle_to_matrix(rotation: Tensor) -> Tensor:
    """Rodrigues: (..., 3) -> (..., 3, 3)."""
    x, y, z = rotation.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    square = rotation.square().sum(-1)[..., None, None]
    angle = square.clamp(min=1e-12).sqrt()
    small = square < 1e-8  # Taylor: exact to float precision there
    first = torch.where(small, 1 - square / 6, angle.sin() / angle)
    second = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / angle.square())
    return torch.eye(3, dtype=x.dtype, device=x.device) + first * cross + second * (cross @ cross)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Logarithm of rotations: (..., 3, 3) -> (..., 3), angles of 0 to pi.

    By way of the quaternion whose largest part is computed first: exact near no turn and near half a turn.
    """
    m00, m11, m22 = matrix.diagonal(dim1=-2, dim2=-1).unbind(-1)
    squares = torch.stack(
        [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1
    )
    skew = matrix - matrix.transpose(-1, -2)
    w_parts = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)  # 4 w (x, y, z)
    both = matrix + matrix.transpose(-1, -2)
    xy, xz, yz = both[..., 0, 1], both[..., 0, 2], both[..., 1, 2]  # 4 xy, ...
    wx, wy, wz = w_parts.unbind(-1)
    rows = torch.stack(
        [
            torch.stack([squares[..., 0], wx, wy, wz], -1),
            torch.stack([wx, squares[..., 1], xy, xz], -1),
            torch.stack([wy, xy, squares[..., 2], yz], -1),
            torch.stack([wz, xz, yz, squares[..., 3]], -1),
        ],
        -2,
    )  # 4 q q^T: every row is the quaternion, up to a factor
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = F.normalize(rows.gather(-2, best)[..., 0, :], dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)  # q and -q are one rotation
    vector = quaternion[..., 1:]
    length = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, quaternion[..., :1])
    return torch.where(length < 1e-6, 2 * vector, vector * angle / length.clamp(min=1e-12))


def matrix_to_rows(matrix: Tensor) -> Tensor:
    """First two rows, flattened: (..., 3, 3) -> (..., 6)."""
    return matrix[..., :2, :].flatten(-2)


def rows_to_matrix(rows: Tensor) -> Tensor:
    """Gram-Schmidt on two rows, the third is their cross product: (..., 6) -> (..., 3, 3)."""
    first = F.normalize(rows[..., :3], dim=-1)
    second = rows[..., 3:] - (first * rows[..., 3:]).sum(-1, keepdim=True) * first
    second = F.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)


def relative_chunk(current: Tensor, targets: Tensor) -> Tensor:
    """Express absolute target poses in the current end-effector frame: a_k = T_ee^-1 T_k.

    Args:
        current: (..., 10) end-effector pose now (its gripper is not read).
        targets: (..., H, 10) commanded absolute poses.

    Returns:
        (..., H, 10); the gripper stays absolute.
    """
    _check_poses(current, targets)
    rotation = rows_to_matrix(current[..., 3:9])[..., None, :, :]
    offset = targets[..., :3] - current[..., None, :3]
    position = (rotation.transpose(-1, -2) @ offset[..., None])[..., 0]
    turned = rotation.transpose(-1, -2) @ rows_to_matrix(targets[..., 3:9])
    return torch.cat([position, matrix_to_rows(turned), targets[..., 9:]], dim=-1)


def absolute_chunk(current: Tensor, chunk: Tensor) -> Tensor:
    """Undo `relative_chunk`: t = R_ee dt + t_ee, R = R_ee dR; (..., 10) and (..., H, 10) -> (..., H, 10)."""
    _check_poses(current, chunk)
    rotation = rows_to_matrix(current[..., 3:9])[..., None, :, :]
    position = (rotation @ chunk[..., :3, None])[..., 0] + current[..., None, :3]
    turned = rotation @ rows_to_matrix(chunk[..., 3:9])
    return torch.cat([position, matrix_to_rows(turned), chunk[..., 9:]], dim=-1)


def average_rotations(matrices: Tensor, weights: Tensor) -> Tensor:
    """Weighted chordal mean on SO(3): the rotation nearest to the mean matrix.

    Args:
        matrices: (K, ..., 3, 3) rotations. weights: (K,), need not sum to one.
    """
    mean = torch.tensordot(weights / weights.sum(), matrices, dims=1)
    u, _, vh = torch.linalg.svd(mean)
    flip = torch.ones_like(mean[..., 0])
    flip[..., 2] = torch.det(u @ vh)
    return (u * flip[..., None, :]) @ vh


def _check_poses(current: Tensor, chunk: Tensor) -> None:
    if current.shape[-1] != POSE_SIZE or chunk.shape[-1] != POSE_SIZE:
        raise FoveaError(
            f"expected poses of {POSE_SIZE} numbers (3 position, 6 rotation rows, gripper), got "
            f"{current.shape[-1]} and {chunk.shape[-1]}"
        )
