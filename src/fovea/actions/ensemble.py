"""Temporal ensembling: average what overlapping chunks say about this step.

Shape letters: H horizon, A action size.
"""

from typing import Literal

import torch
from torch import Tensor

from fovea.actions.se3 import POSE_SIZE, average_rotations, matrix_to_rows, rows_to_matrix
from fovea.errors import FoveaError

Weighting = Literal["newest", "oldest"]
COEFFICIENTS = {"newest": 0.05, "oldest": 0.01}  # OTTER's and ACT's


class ChunkEnsemble:
    """Weighted average over the chunks that still cover the present step.

    With i = 0 the OLDEST chunk, weights are exp(+c i) for `newest` (OTTER's release, c = 0.05: the newest
    weighs most) and exp(-c i) for `oldest` (ACT, c = 0.01).

    Args:
        weighting: `newest` or `oldest`.
        coefficient: c >= 0; None takes the convention's own.
        poses: actions are absolute poses (see `actions.se3`); their rotations are averaged on SO(3).
    """

    def __init__(
        self, weighting: Weighting, coefficient: float | None = None, *, poses: bool = False
    ) -> None:
        coefficient = COEFFICIENTS.get(weighting, 0.0) if coefficient is None else coefficient
        if weighting not in ("newest", "oldest") or coefficient < 0:
            raise FoveaError(
                f"expected weighting newest or oldest, coefficient >= 0; got {weighting!r}, {coefficient}"
            )
        self.sign = 1.0 if weighting == "newest" else -1.0
        self.coefficient = coefficient
        self.poses = poses
        self._chunks: list[Tensor] = []  # oldest first; what is left of each, present step first

    def push(self, chunk: Tensor) -> Tensor:
        """Take the chunk (H, A) predicted now, return the averaged action (A,) of the present step."""
        self._chunks = [*self._chunks, chunk]
        votes = torch.stack([left[0] for left in self._chunks])
        self._chunks = [left[1:] for left in self._chunks if len(left) > 1]
        ranks = torch.arange(len(votes), dtype=votes.dtype, device=votes.device)
        weights = torch.softmax(self.sign * self.coefficient * ranks, dim=0)
        mean = weights @ votes
        if self.poses:
            if votes.shape[-1] != POSE_SIZE:
                raise FoveaError(f"expected poses of {POSE_SIZE} numbers, got {votes.shape[-1]}")
            rotation = average_rotations(rows_to_matrix(votes[:, 3:9]), weights)
            mean = torch.cat([mean[:3], matrix_to_rows(rotation), mean[9:]])
        return mean
