"""What every fusion offers: patches and words in, the visual tokens that the policy gets to see out.

Shape letters: B batch, T time, C cameras, N patches, M words, D joint width, V width of the fused tokens.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from fovea.nn.positions import sincos_1d, sincos_2d
from fovea.tokens import Tokens

ValuePositions = Literal["none", "sincos1d", "sincos2d"]
ValueJoin = Literal["add", "concat"]
MAX_SCALE = 100.0  # CLIP's own cap on 1 / tau


class Fusion(nn.Module, ABC):
    """Fusion of patches with words; says WHAT through patch content and WHERE through fixed positions.

    Args:
        width: D.
        grid: (rows, columns) of patches.
        cameras: C.
        temperature: the encoder's image-text temperature, where similarities start from.
        max_scale: largest 1 / temperature; None for no cap.
        positions: embedding of the place of a patch, on the values only (never in the similarity).
        join: add the positions to the content, or put them behind it.
        position_width: width of the positions when joined by `concat`.
        content_dropout: in training, share of windows whose content is zeroed in all frames and cameras, so
            that the policy learns to use WHERE on its own.

    Attributes:
        out_width: V.
    """

    positions: Tensor | None

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        cameras: int,
        *,
        temperature: float = 0.07,
        max_scale: float | None = MAX_SCALE,
        positions: ValuePositions = "sincos2d",
        join: ValueJoin = "add",
        position_width: int = 64,
        content_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.join, self.max_scale = join, max_scale
        self.content_dropout = content_dropout
        place = width if join == "add" else position_width
        if positions == "none":
            embedding, place = None, 0
        elif positions == "sincos1d":
            embedding = sincos_1d(grid[0] * grid[1], place)
        else:
            embedding = sincos_2d(grid, place)
        self.register_buffer("positions", embedding, persistent=False)
        self.out_width = width if join == "add" else width + place

    @abstractmethod
    def forward(self, patches: Tensor, words: Tokens) -> Tokens:
        """Patches (B, T, C, N, D), words (B, M, D) -> fused tokens (B, T, C, ..., V)."""

    def _join(self, content: Tensor, place: Tensor | None) -> Tensor:
        """Put content (B, ..., D) and its place together, with content dropout over B in training."""
        if self.training and self.content_dropout > 0:
            keep = torch.rand(len(content), device=content.device) >= self.content_dropout
            content = content * keep.view(-1, *[1] * (content.ndim - 1))
        if place is None:
            return content
        if self.join == "add":
            return content + place
        return torch.cat([content, place.expand(*content.shape[:-1], -1)], dim=-1)
