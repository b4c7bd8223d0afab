"""A causal transformer over time, with key/value-cached stepping.

Shape letters: B batch, T steps, D width.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.nn.attention import CausalSelfAttention, mlp
from fovea.nn.positions import rotary_angles


@dataclass
class KeyValueCache:
    """Keys and values of the steps seen so far, one pair a layer; `length` is their number."""

    length: int = 0
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class CausalBlock(nn.Module):
    """Pre-LN block: causal self-attention, then MLP."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = mlp(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, angles: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, present = self.attention(self.attention_norm(x), past, angles)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), present


class CausalTransformer(nn.Module):
    """Each step sees itself and the steps before it, at most `context` of them.

    Args:
        width: D.
        context: longest sequence.
        hidden: width of the MLPs.
        positions: `learned` (one vector a step) or `rotary`.
        final_norm: LayerNorm at the end (OTTER's release has none).
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        context: int,
        *,
        hidden: int,
        positions: Literal["learned", "rotary"] = "learned",
        final_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.context = context
        self.head_width = width // heads
        self.position = nn.Parameter(torch.randn(context, width) * 0.02) if positions == "learned" else None
        self.blocks = nn.ModuleList(CausalBlock(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if final_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D).

        T <= context with learned positions. With rotary positions T may be longer; every step then sees ALL steps
        before it, which is not what stepping with a context does.
        """
        return self._run(x, 0, None)[0]

    def step(self, x: Tensor, cache: KeyValueCache) -> Tensor:
        """One more step (B, D) -> (B, D), as `forward` over all steps so far; the cache grows in place."""
        y, cache.layers = self._run(x[:, None], cache.length, cache.layers or None)
        cache.length += 1
        return y[:, 0]

    def _run(
        self, x: Tensor, start: int, past: list[tuple[Tensor, Tensor]] | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        stop = start + x.shape[1]
        if stop > self.context and (past is not None or self.position is not None):
            raise FoveaError(
                f"expected at most {self.context} steps, got {stop}; pass the last {self.context} of them"
            )
        angles = None
        if self.position is None:
            angles = rotary_angles(torch.arange(start, stop, device=x.device), self.head_width)
        else:
            x = x + self.position[start:stop]
        present = []
        for index, block in enumerate(self.blocks):
            x, layer = block(x, past[index] if past else None, angles)
            present.append(layer)
        return self.norm(x), present
