"""The fixed wrapper of every graft: adaptive average pooling, LayerNorm, ONE trainable Linear (arXiv 2606.14153).

Shape letters: B batch, N patches (row-major), V width of the encoder, P pooled tokens (side x side), D width of the
language model.
"""

import math
from types import TracebackType
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fovea.encoders.base import VisionEncoder
from fovea.errors import FoveaError
from fovea.grafting.hooks import Hook


class Projector(nn.Module):
    """Patches of any encoder -> tokens of a language model.

    LayerNorm has no gain and no offset: the Linear behind it would absorb them, and only the Linear is to be trained.

    Args:
        grid: (rows, columns) of the patches; square.
        width_in: V.
        side: P = side x side tokens come out.
        width_out: D.
        scale: root mean square of the tokens at the start; the native tower's own keeps the first steps calm.
        seed: draws the weights.
        dtype: of the tokens, the language model's own.

    Raises:
        FoveaError: the grid is not square.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        width_in: int,
        side: int,
        width_out: int,
        *,
        scale: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_square(grid, "the encoder")
        if side < 1:
            raise FoveaError(f"expected a pooling side of at least 1, got {side}")
        self.grid, self.side, self.dtype = grid, side, dtype
        self.linear = nn.Linear(width_in, width_out)
        with torch.no_grad():
            drawn = torch.randn(width_out, width_in, generator=torch.Generator().manual_seed(seed))
            self.linear.weight.copy_(drawn * (scale / math.sqrt(width_in)))
            self.linear.bias.zero_()

    def forward(self, patches: Tensor) -> Tensor:
        """(B, N, V) -> (B, P, D) in the language model's dtype."""
        rows, columns = self.grid
        if patches.ndim != 3 or patches.shape[1:] != (rows * columns, self.linear.in_features):
            raise FoveaError(
                f"expected patches (B, {rows * columns}, {self.linear.in_features}), got {tuple(patches.shape)}"
            )
        pooled = pool(patches.to(self.linear.weight.dtype), self.grid, self.side)
        return self.linear(F.layer_norm(pooled, pooled.shape[-1:])).to(self.dtype)


class Graft:
    """Puts something else in the place of a backbone's `embed_image` for the length of a `with` block.

    Whoever calls the policy may hand it pictures, as always, or tokens that were computed before: what has three
    dimensions (B, N, V) goes to the projector directly, what has four is a picture in [-1, 1] and goes through the
    encoder first.

    Args:
        hook: whose `embed_image`.
        projector: makes the language model's tokens; None hands tokens through (they are the native tower's own).
        encoder: for pictures; without one pictures are refused.
    """

    def __init__(self, hook: Hook, projector: Projector | None, encoder: VisionEncoder | None = None) -> None:
        self.hook, self.projector, self.encoder = hook, projector, encoder

    def __enter__(self) -> Self:
        self.hook.replace(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hook.restore()

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] or (B, N, V) -> (B, P, D)."""
        if image.ndim == 4:
            image = self._encode(image)
        return image if self.projector is None else self.projector(image)

    def _encode(self, image: Tensor) -> Tensor:
        if self.encoder is None:
            raise FoveaError("this graft has no encoder: hand it tokens (B, N, V), or give it one")
        height, width = self.hook.image_size
        if tuple(image.shape[1:]) != (3, height, width):
            raise FoveaError(
                f"expected pictures (B, 3, {height}, {width}), as {self.hook.kind} hands them to embed_image, "
                f"got {tuple(image.shape)}"
            )
        with torch.no_grad():
            return self.encoder.encode_image(to_uint8(image)).values


def pool(patches: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Adaptive average pooling over the grid: (B, N, V) -> (B, side x side, V); a finer side repeats patches."""
    if grid == (side, side):
        return patches
    square = patches.transpose(1, 2).unflatten(2, grid)
    return F.adaptive_avg_pool2d(square, side).flatten(2).transpose(1, 2)


def to_uint8(image: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> uint8."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def check_square(grid: tuple[int, int], whose: str) -> None:
    """Refuse a grid that is not square: the wrapper pools to a square of tokens."""
    rows, columns = grid
    if rows != columns or rows < 1:
        raise FoveaError(
            f"expected {whose} to give a square grid of patches, got {rows} x {columns}; "
            "choose an encoder (or an image size) with as many rows as columns"
        )
