"""Fixed position embeddings and rotary positions.

Shape letters: N positions, D width.
"""

import math

import torch
from torch import Tensor

from fovea.errors import FoveaError


def sincos_1d(length: int, width: int) -> Tensor:
    """Sine-cosine embedding of positions 0 .. length - 1 ("Attention is all you need", 3.5): (N, D).

    Sines fill the first half of the width, cosines the second.
    """
    if width % 2:
        raise FoveaError(f"expected an even width for 1-D sine-cosine positions, got {width}")
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2).float() / width)
    angles = torch.arange(length).float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(grid: tuple[int, int], width: int) -> Tensor:
    """Sine-cosine embedding of a row-major grid, from half a wave to eight halves a side: (N, D), unit norm.

    The norm is that of L2-normalised patches, so neither content nor position drowns the other.
    """
    if width % 4:
        raise FoveaError(f"expected a width divisible by 4 for 2-D sine-cosine positions, got {width}")
    rows, columns = grid
    y, x = torch.meshgrid(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns), indexing="ij")
    frequencies = torch.exp(torch.linspace(math.log(0.5), math.log(8.0), width // 4)) * math.pi
    x, y = x.reshape(-1, 1) * frequencies, y.reshape(-1, 1) * frequencies
    embedding = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
    return embedding / embedding.norm(dim=1, keepdim=True)


def rotary_angles(steps: Tensor, width: int) -> Tensor:
    """Angles of rotary positions (RoFormer, arXiv 2104.09864): (N, D / 2) for steps (N,)."""
    inverse_frequencies = 10000.0 ** (-torch.arange(0, width, 2, device=steps.device).float() / width)
    return steps[:, None].float() * inverse_frequencies


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs (first half, second half) of x (..., N, D) by angles (N, D / 2).

    Non-obvious: it turns by minus the angle, as OTTER's release does; attention sees differences only, so the
    direction is a convention that weights depend on.
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)  # rounded last: an angle may be large
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)


def rotate_as_va(x: Tensor, angles: Tensor) -> Tensor:
    """What VLA-Adapter's release does instead of a rotation; only its converted weights want it.

    Non-obvious: angles belong to (first half, second half) pairs and the turned partner to (even, odd) pairs, so
    lengths are not kept.
    """
    doubled = torch.cat([angles, angles], dim=-1)
    partner = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * doubled.cos().to(x.dtype) + partner * doubled.sin().to(x.dtype)
