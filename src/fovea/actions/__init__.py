"""Decode and average action chunks."""

from fovea.actions.ensemble import ChunkEnsemble
from fovea.actions.se3 import absolute_chunk, axis_angle_to_matrix, matrix_to_rows, relative_chunk

__all__ = ["ChunkEnsemble", "absolute_chunk", "axis_angle_to_matrix", "matrix_to_rows", "relative_chunk"]
