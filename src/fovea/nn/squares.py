"""Fewer patches: the mean over squares of them, inside every camera and under a mask.

Shape letters: B batch, C cameras, G = rows * columns patches of a camera, S side of a square, K token width.
"""

import torch.nn.functional as F
from torch import Tensor


def zero_padding(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, K) with zeros where the mask (B, N) is False: not-a-number in padding would spread, even times zero."""
    return tokens if mask is None else tokens.masked_fill(~mask[..., None], 0.0)


def average_squares(
    tokens: Tensor, mask: Tensor | None, *, grid: tuple[int, int], side: int
) -> tuple[Tensor, Tensor | None]:
    """Mean over the real patches of every square of S x S; a square of padding alone is padding.

    Args:
        tokens: (B, C * G, K), camera after camera, row after row.
        mask: (B, C * G), True on real patches; None where all are.
        grid: (rows, columns) of a camera, multiples of S.

    Returns:
        (B, C * G / S^2, K), zeros where it is padding, and its mask, None as it came.
    """
    tokens = zero_padding(tokens, mask)
    if side == 1:
        return tokens, mask
    if mask is None:
        return _mean(tokens, grid, side), None
    share = _mean(mask.to(tokens.dtype)[..., None], grid, side)
    real = share[..., 0] > 0
    return _mean(tokens, grid, side) / share.masked_fill(~real[..., None], 1.0), real


def _mean(values: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    pictures = values.unflatten(1, (-1, *grid)).flatten(0, 1).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(pictures, side).flatten(2).transpose(1, 2)
    return pooled.unflatten(0, (len(values), -1)).flatten(1, 2)
