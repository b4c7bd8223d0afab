"""Modality Cascaded Attention: itself, then queries, then vision, each in its own softmax (FocusVLA, eqs. 6 and 7).

Shape letters: B batch, N action queries, Q action-query states and proprioception, M vision tokens, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.fusion.focus import FocusAttention, Selection
from fovea.fusion.rotary import Rotary, RotaryKind
from fovea.nn.attention import check_heads, collect_values, key_scores, merge_heads, split_heads
from fovea.nn.gates import GateKind

Order = Literal["sequential", "parallel"]
Stage = Literal["self", "queries", "vision"]
STAGES: tuple[Stage, ...] = ("self", "queries", "vision")


class Stream(nn.Module):
    """Keys and values of one modality for queries made elsewhere."""

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.key = nn.Linear(token_width, width)
        self.value = nn.Linear(token_width, width)

    def forward(self, q: Tensor, tokens: Tensor, rotary: Rotary) -> Tensor:
        """Queries (B, heads, N, D / heads) over tokens (B, Q, token_width) -> (B, N, D)."""
        scaled = q * q.shape[-1] ** -0.5
        if rotary.kind == "none":
            scores = key_scores(scaled, self.key, tokens)
        else:
            keys = split_heads(self.key(tokens), q.shape[1])
            scores = rotary(scaled) @ rotary(keys).transpose(-1, -2)
        return merge_heads(collect_values(scores.softmax(dim=-1), self.value, tokens))


class CascadedAttention(nn.Module):
    """One query projection, three pairs of keys and values, one fusion of the three outputs.

    Args:
        width: D.
        query_width: of action-query states and proprioception.
        key_width, value_width: of the vision tokens behind keys and values.
        order: `sequential`: what a stage found is added to the latent before the next one asks; `parallel`: all ask
            with the same latent.
        stages: which of the three there are; fewer is for comparison with plain attention.
        selection, gate: of the vision stage, see `FocusAttention`.
        rotary: positions on queries and keys of the first two stages; vision tokens have none (eq. 9).

    Raises:
        FoveaError: unknown or no stages.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        query_width: int,
        key_width: int,
        value_width: int,
        order: Order = "sequential",
        stages: tuple[Stage, ...] = STAGES,
        selection: Selection | None = None,
        gate: GateKind = "element",
        rotary: RotaryKind = "none",
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        if order not in ("sequential", "parallel"):
            raise FoveaError(f"expected an order among sequential, parallel, got {order!r}")
        if not stages or tuple(stage for stage in STAGES if stage in stages) != tuple(stages):
            raise FoveaError(f"expected stages among {', '.join(STAGES)}, in this order, got {stages}")
        self.heads, self.order, self.stages = heads, order, tuple(stages)
        self.query = nn.Linear(width, width)
        self.self_stream = Stream(width, width) if "self" in stages else None
        self.query_stream = Stream(width, query_width) if "queries" in stages else None
        self.vision = None
        if "vision" in stages:
            self.vision = FocusAttention(width, heads, key_width, value_width, selection=selection, gate=gate)
        self.fuse = nn.Linear(len(stages) * width, width)
        self.rotary = Rotary(rotary)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Latent x (B, N, D), context (B, Q, query_width), vision keys and values (B, M, ...) -> A' (B, N, D).

        Args:
            mask: (B, M), True on real vision tokens.
            maps: gets the vision stage's attention (B, heads, N, M) appended.
        """
        found: list[Tensor] = []
        q = split_heads(self.query(x), self.heads)
        for stage in self.stages:
            if found and self.order == "sequential":
                x = x + found[-1]
                q = split_heads(self.query(x), self.heads)
            if stage == "self" and self.self_stream is not None:
                found.append(self.self_stream(q, x, self.rotary))
            elif stage == "queries" and self.query_stream is not None:
                found.append(self.query_stream(q, context, self.rotary))
            elif self.vision is not None:
                found.append(self.vision(x, q, keys, values, mask, maps))
        return self.fuse(torch.cat(found, dim=-1))
