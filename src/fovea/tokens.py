"""Tokens: what travels between encoders, fusion, policies and heads.

Shape letters: ... leading axes (batch, time, cameras), N tokens, D width.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Vectors together with the mask that says which of them are real.

    Args:
        values: (..., N, D) float.
        mask: (..., N) bool, True where the token is real, False where it is padding.

    Raises:
        ValueError: if the mask is not boolean or does not have the shape of the values without D.
    """

    values: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype.is_floating_point or str(self.mask.dtype) != "torch.bool":
            raise ValueError(f"Tokens.mask must be bool, got {self.mask.dtype}; use `mask.bool()`")
        if self.values.shape[:-1] != self.mask.shape:
            raise ValueError(
                f"Tokens.mask must have the shape of values without the last axis, {tuple(self.values.shape[:-1])}, "
                f"got {tuple(self.mask.shape)}"
            )

    @property
    def width(self) -> int:
        """D, the size of one token."""
        return self.values.shape[-1]

    def to(self, *args: Any, **kwargs: Any) -> "Tokens":
        """The tokens on another device or in another floating type; the mask stays bool."""
        values = self.values.to(*args, **kwargs)
        return Tokens(values, self.mask.to(values.device))
