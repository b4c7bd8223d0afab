"""VLA-Adapter-Pro's policy as it was published, in plain PyTorch: what `fovea bench focus-vla` compares with.

Written from the paper (arXiv 2509.09372) and FocusVLA's section 3. Every block projects all vision tokens to keys and
values, turns queries and keys by rotary positions, and takes one softmax over chunk, queries and vision.

Shape letters: L layers, B batch, N chunk, Q queries and proprioception, M vision tokens, D width, h heads.
"""

import torch
from torch import Tensor, nn


def turned(x: Tensor) -> Tensor:
    """Rotary positions on (B, h, T, d)."""
    half = x.shape[-1] // 2
    rates = 10000 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    angles = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)[:, None] * rates
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)


class PublishedBlock(nn.Module):
    """One query projection, three pairs of keys and values, a tanh gate on the vision logits."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.keys = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.values = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.o = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.zeros(1))
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor, queries: Tensor, vision: Tensor) -> Tensor:
        """x (B, N, D), queries (B, Q, D), vision (B, M, D) -> (B, N, D)."""
        q = turned(self._split(self.q(x)))
        scores, values = [], []
        for key, value, tokens in zip(self.keys, self.values, (x, queries, vision), strict=True):
            k = turned(self._split(key(tokens)))
            scores.append(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5)
            values.append(self._split(value(tokens)))
        scores[2] = scores[2] * self.gate.tanh()
        weights = torch.cat(scores, dim=-1).softmax(dim=-1)
        seen = (weights @ torch.cat(values, dim=2)).transpose(1, 2).flatten(2)
        return self.ffn(self.o(seen) + x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PublishedPolicy(nn.Module):
    """Stem, one block a layer of the VLM, head."""

    def __init__(
        self, width: int, heads: int, layers: int, *, chunk: int = 8, action: int = 7, proprio: int = 8
    ) -> None:
        super().__init__()
        self.chunk, self.latent = chunk, action * width
        self.stem = nn.Sequential(nn.LayerNorm(self.latent), nn.Linear(self.latent, width), nn.ReLU())
        self.proprio = nn.Sequential(nn.Linear(proprio, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(PublishedBlock(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, action))

    def forward(self, vision: Tensor, queries: Tensor, proprio: Tensor) -> Tensor:
        """vision (L, B, M, D), queries (L, B, Q, D), proprio (B, P) -> actions (B, N, A)."""
        token = self.proprio(proprio)[:, None]
        x = self.stem(torch.zeros(len(proprio), self.chunk, self.latent))
        for block, seen, asked in zip(self.blocks, vision, queries, strict=True):
            x = block(x, torch.cat([asked, token], dim=1), seen)
        return self.head(x)
