"""Decode and average action chunks."""

from fovea.actions.ensemble import ChunkEnsemble
from fovea.actions.libero import action_towards, commanded_pose
from fovea.actions.se3 import (
    absolute_chunk,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rows,
    relative_chunk,
)

__all__ = [
    "ChunkEnsemble",
    "absolute_chunk",
    "action_towards",
    "axis_angle_to_matrix",
    "commanded_pose",
    "matrix_to_axis_angle",
    "matrix_to_rows",
    "relative_chunk",
]
