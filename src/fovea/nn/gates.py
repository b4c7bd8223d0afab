"""Gates on what attention has collected: how much of it, and which channels, may pass.

Shape letters: B batch, N queries, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.nn.attention import check_heads

GateKind = Literal["none", "scalar", "head", "element"]
GATES: tuple[GateKind, ...] = ("none", "scalar", "head", "element")


class Gate(nn.Module):
    """A gate on attended values (FocusVLA eq. 11; Gated Attention, arXiv 2505.06708).

    `none` lets everything pass; `scalar` multiplies by tanh(g) with one parameter g, 0 at first (VLA-Adapter);
    `head` and `element` multiply every head or channel by sigmoid(W x), W = 0 and so 0.5 at first.

    Raises:
        FoveaError: no such gate, or heads that do not divide the width.
    """

    def __init__(self, kind: GateKind, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        if kind not in GATES:
            raise FoveaError(f"expected a gate among {', '.join(GATES)}, got {kind!r}")
        self.kind, self.heads = kind, heads
        if kind == "scalar":
            self.factor = nn.Parameter(torch.zeros(1))
        elif kind != "none":
            self.opening = nn.Linear(width, heads if kind == "head" else width)
            nn.init.zeros_(self.opening.weight)
            nn.init.zeros_(self.opening.bias)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Gate `attended` (B, N, D) by the hidden state x (B, N, D) of the queries."""
        if self.kind == "none":
            return attended
        if self.kind == "scalar":
            return attended * self.factor.tanh()
        opening = self.opening(x).sigmoid()
        if self.kind == "element":
            return attended * opening
        return (attended.unflatten(-1, (self.heads, -1)) * opening[..., None]).flatten(-2)
