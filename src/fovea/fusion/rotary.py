"""Rotary positions of a sequence's heads, as a choice of a configuration.

Shape letters: B batch, N positions, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.nn.positions import rotary_angles, rotate, rotate_as_va

RotaryKind = Literal["none", "true", "compat"]
ROTARIES: tuple[RotaryKind, ...] = ("none", "true", "compat")


class Rotary(nn.Module):
    """Positions 0, 1, ... on queries or keys: `none`, a `true` rotation, or what VLA-Adapter does (`compat`).

    Raises:
        FoveaError: no such kind; on use, an odd width of the heads.
    """

    def __init__(self, kind: RotaryKind) -> None:
        super().__init__()
        if kind not in ROTARIES:
            raise FoveaError(f"expected rotary positions among {', '.join(ROTARIES)}, got {kind!r}")
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, N, D / heads) -> the same."""
        if self.kind == "none":
            return x
        if x.shape[-1] % 2:
            raise FoveaError(f"expected heads of even width for rotary positions, got {x.shape[-1]}")
        angles = rotary_angles(torch.arange(x.shape[2], device=x.device), x.shape[-1])
        return rotate(x, angles) if self.kind == "true" else rotate_as_va(x, angles)
