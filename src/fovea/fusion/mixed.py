"""Mixed attention: one softmax over the chunk itself, the action queries and vision (VLA-Adapter; FocusVLA, eq. 1).

Shape letters: B batch, N action queries, Q action-query states and proprioception, M vision tokens, D width.
"""

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.fusion.focus import Selection
from fovea.fusion.rotary import Rotary, RotaryKind
from fovea.nn.attention import check_heads, collect_values, key_scores, merge_heads, split_heads
from fovea.nn.gates import Gate, GateKind


class MixedAttention(nn.Module):
    """VLA-Adapter's attention; base: one key and one value projection; pro (`separate`): one pair a modality.

    Args:
        width: D.
        query_width: of action-query states and proprioception.
        key_width, value_width: of the vision tokens behind keys and values.
        separate: own keys and values for self, queries and vision; otherwise all tokens must be D wide.
        rotary: positions on queries and keys; they begin at 0 in each of the three.
        gate: `scalar` multiplies the LOGITS of vision by tanh(g), g = 0 at first (VLA-Adapter); `head` and `element`
            multiply what vision contributes to the output; `none`.
        selection: which vision tokens may be seen.

    Raises:
        FoveaError: shared projections for tokens of different widths.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        query_width: int,
        key_width: int,
        value_width: int,
        separate: bool = False,
        rotary: RotaryKind = "none",
        gate: GateKind = "scalar",
        selection: Selection | None = None,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        if not separate and {query_width, key_width, value_width} != {width}:
            raise FoveaError(
                f"expected queries and vision tokens {width} wide, as the policy (one projection serves all), got "
                f"{query_width}, {key_width}, {value_width}; set variant=pro, or dim_model to the width of the VLM"
            )
        self.heads, self.separate = heads, separate
        self.selection = selection or Selection()
        self.query = nn.Linear(width, width)
        self.key_self = nn.Linear(width, width)
        self.value_self = nn.Linear(width, width)
        if separate:
            self.key_queries = nn.Linear(query_width, width)
            self.value_queries = nn.Linear(query_width, width)
            self.key_vision = nn.Linear(key_width, width)
            self.value_vision = nn.Linear(value_width, width)
        self.out = nn.Linear(width, width)
        self.rotary = Rotary(rotary)
        self.gate = Gate(gate, width, heads)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Latent x (B, N, D), context (B, Q, query_width), vision keys and values (B, M, ...) -> (B, N, D).

        Args:
            mask: (B, M), True on real vision tokens.
            maps: gets vision's share of the attention (B, heads, N, M) appended; its sum is what is left by the rest.
        """
        layers = (self.key_self, self.value_self) * 3
        if self.separate:
            layers = (*layers[:2], self.key_queries, self.value_queries, self.key_vision, self.value_vision)
        q = split_heads(self.query(x), self.heads)
        q = self.rotary(q * q.shape[-1] ** -0.5)
        vision = self._scores(q, layers[4], keys)
        hidden = None if mask is None else ~mask[:, None, None]
        keep = self.selection.keep(vision if hidden is None else vision.masked_fill(hidden, float("-inf")))
        if self.gate.kind == "scalar":  # after the selection: a gate of 0 would leave nothing to choose by
            vision = vision * self.gate.factor.tanh()
        for out in (hidden, None if keep is None else ~keep):
            vision = vision if out is None else vision.masked_fill(out, float("-inf"))
        scores = [self._scores(q, layers[0], x), self._scores(q, layers[2], context), vision]
        sizes = [x.shape[1], context.shape[1], keys.shape[1]]
        own, asked, seen = torch.cat(scores, dim=-1).softmax(dim=-1).split(sizes, dim=-1)
        if maps is not None:
            maps.append(seen)
        rest = collect_values(own, layers[1], x) + collect_values(asked, layers[3], context)
        what = collect_values(seen, layers[5], values)
        if self.gate.kind in ("head", "element"):
            return self.out(merge_heads(rest) + self.gate(x, merge_heads(what)))
        return self.out(merge_heads(rest + what))

    def _scores(self, q: Tensor, key: nn.Linear, tokens: Tensor) -> Tensor:
        if self.rotary.kind == "none":
            return key_scores(q, key, tokens)
        return q @ self.rotary(split_heads(key(tokens), self.heads)).transpose(-1, -2)
