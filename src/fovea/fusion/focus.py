"""Focus Attention: actions look at the K vision tokens that concern them, through a gate (FocusVLA, eqs. 9 to 11).

Shape letters: B batch, N action queries, M vision tokens (camera after camera), C cameras, K kept tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.nn.attention import collect_values, key_scores, merge_heads
from fovea.nn.gates import Gate, GateKind

Scope = Literal["query", "shared", "camera"]
SCOPES: tuple[Scope, ...] = ("query", "shared", "camera")


@dataclass(frozen=True)
class Selection:
    """Which vision tokens may be seen.

    Args:
        k: K; None, or as many as there are tokens, keeps all.
        scope: `query`: every query of every head has its own K (the paper, as far as it says); `shared`: one set for
            all of them, by summed scores; `camera`: as `query`, but every camera has the same share of K (the first
            ones get what is left over).
        cameras: C; it divides M.

    Raises:
        FoveaError: K below 1, an unknown scope, or fewer tokens than cameras.
    """

    k: int | None = None
    scope: Scope = "query"
    cameras: int = 1

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise FoveaError(f"expected a top-K scope among {', '.join(SCOPES)}, got {self.scope!r}")
        if self.k is not None and self.k < (self.cameras if self.scope == "camera" else 1):
            raise FoveaError(
                f"expected a top K of at least one token (a camera, with scope camera), got {self.k}; "
                "leave it unset to keep all tokens"
            )

    def active(self, tokens: int) -> bool:
        """Whether anything is left out of M tokens."""
        return self.k is not None and self.k < tokens

    def keep(self, scores: Tensor) -> Tensor | None:
        """True where a token is among the best; None if all are.

        Args:
            scores: (B, heads, N, M), minus infinity on padding (which is kept last, and stays invisible).

        Returns:
            bool, (B, heads, N, M) or (B, 1, 1, M).
        """
        if not self.active(scores.shape[-1]):
            return None
        assert self.k is not None
        scores = scores.detach()
        if self.scope == "shared":
            return _best(scores.sum((1, 2), keepdim=True), self.k)
        if self.scope == "query":
            return _best(scores, self.k)
        if scores.shape[-1] % self.cameras:
            raise FoveaError(
                f"expected as many tokens from each of {self.cameras} cameras, got {scores.shape[-1]} in all"
            )
        share, rest = divmod(self.k, self.cameras)
        parts = scores.chunk(self.cameras, dim=-1)
        return torch.cat([_best(part, share + (i < rest)) for i, part in enumerate(parts)], dim=-1)

    def indices(self, scores: Tensor) -> Tensor | None:
        """Places (B, K) of the one set that all queries share, or None where there is no such set."""
        if self.scope != "shared" or not self.active(scores.shape[-1]):
            return None
        assert self.k is not None
        return scores.detach().sum((1, 2)).topk(self.k, dim=-1).indices


class FocusAttention(nn.Module):
    """Attention of actions to vision: keys say where to look, values what is seen there.

    The few queries of a chunk are compared with the tokens without projecting those (see `key_scores`), and where all
    queries share one set of tokens, only these are collected.

    Args:
        width: D.
        key_width, value_width: widths of the tokens behind keys and values.
        selection: which tokens may be seen.
        gate: on the output, from the queries' hidden state.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        key_width: int,
        value_width: int,
        *,
        selection: Selection | None = None,
        gate: GateKind = "element",
    ) -> None:
        super().__init__()
        self.selection = selection or Selection()
        self.key = nn.Linear(key_width, width)
        self.value = nn.Linear(value_width, width)
        self.gate = Gate(gate, width, heads)
        self.gather = True  # of a shared set; False masks instead: same numbers, kept for comparison

    def forward(
        self,
        x: Tensor,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Collect what the queries see.

        Args:
            x: (B, N, D) hidden state of the queries, for the gate.
            q: (B, heads, N, D / heads), not scaled.
            keys, values: (B, M, key_width), (B, M, value_width), the tokens to be projected.
            mask: (B, M), True on real tokens; every row has one.
            maps: gets the attention (B, heads, N, M) appended.

        Returns:
            (B, N, D), without output projection.
        """
        scores = key_scores(q * q.shape[-1] ** -0.5, self.key, keys)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
        chosen = self.selection.indices(scores) if self.gather else None
        if chosen is None:
            weights = softmax_of_kept(scores, self.selection)
            seen = weights
        else:
            spread = chosen[:, None, None].expand(-1, *scores.shape[1:3], -1)
            weights = scores.gather(-1, spread).softmax(dim=-1)
            values = values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))
            seen = torch.zeros_like(scores).scatter(-1, spread, weights) if maps is not None else weights
        if maps is not None:
            maps.append(seen)
        return self.gate(x, merge_heads(collect_values(weights, self.value, values)))


def softmax_of_kept(scores: Tensor, selection: Selection) -> Tensor:
    """Softmax of (B, heads, N, M) over the kept tokens, zero elsewhere (eqs. 9 and 10)."""
    keep = selection.keep(scores)
    if keep is not None:
        scores = scores.masked_fill(~keep, float("-inf"))
    return scores.softmax(dim=-1)


def _best(scores: Tensor, k: int) -> Tensor:
    """True at the k largest of the last axis (at all, if there are no more)."""
    k = min(k, scores.shape[-1])
    places = scores.topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, places, True)
