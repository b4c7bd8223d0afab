"""Photometric augmentation of float pictures: light, colour cast, blur and the marks of a video codec.

Mild enough that colour words keep their meaning. Demonstrations are stored as h264, so some pictures lose their
fine chroma and quantised frequencies here, on 8-px blocks that coincide with the encoder's patches.

Shape letters: B pictures, H W pixels.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

# YCbCr (ITU-R BT.601, JPEG); rows: Y, Cb, Cr
_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = torch.linalg.inv(_TO_YCC)


@cache
def _dct(size: int = 8) -> Tensor:
    """Orthonormal DCT-II matrix (size, size)."""
    n = torch.arange(size, dtype=torch.float32)
    basis = torch.cos(math.pi * (2 * n[None, :] + 1) * n[:, None] / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, colour cast on all; blur on a quarter, codec loss on a half: (B, 3, H, W) in 0..255."""
    batch = len(pixels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    pixels = pixels * (1 + 0.15 * normal(1, 1, 1)) + 10 * normal(1, 1, 1)
    pixels = pixels * (1 + 0.03 * normal(3, 1, 1)) + 3 * normal(3, 1, 1)
    chosen = torch.rand(batch, generator=generator)
    noise = 3 * torch.rand(batch, 1, 1, 1, generator=generator) * normal(*pixels.shape[1:])
    pixels = (pixels + noise).clamp(0, 255)
    blurred, coded = chosen < 0.25, (chosen > 0.15) & (chosen < 0.65)
    if blurred.any():
        pixels[blurred] = blur(pixels[blurred])
    if coded.any():
        strength = 4 + 20 * torch.rand(int(coded.sum()), generator=generator)
        pixels[coded] = codec(pixels[coded], strength)
    return pixels


def blur(pixels: Tensor) -> Tensor:
    """Binomial 3 x 3 blur: (B, 3, H, W)."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    weight = (kernel[:, None] * kernel[None, :]).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), weight, groups=3)


def codec(pixels: Tensor, strength: Tensor) -> Tensor:
    """Halve the chroma's resolution and quantise 8 x 8 DCT blocks: (B, 3, H, W), strength (B,) in grey levels."""
    batch, _, height, width = pixels.shape
    ycc = torch.einsum("cd,bdhw->bchw", _TO_YCC, pixels)
    chroma = F.avg_pool2d(ycc[:, 1:], 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    ycc = torch.cat([ycc[:, :1], chroma], 1)
    blocks = ycc.view(batch, 3, height // 8, 8, width // 8, 8).transpose(3, 4)
    basis = _dct()
    frequencies = basis @ blocks @ basis.T
    index = torch.arange(8, dtype=torch.float32)
    # the higher the frequency, the coarser, as in every codec's default matrices
    step = strength.view(-1, 1, 1, 1, 1, 1) * (1 + (index[:, None] + index[None, :]) / 3)
    blocks = basis.T @ ((frequencies / step).round() * step) @ basis
    ycc = blocks.transpose(3, 4).reshape(batch, 3, height, width)
    return torch.einsum("cd,bdhw->bchw", _TO_RGB, ycc).clamp(0, 255)
