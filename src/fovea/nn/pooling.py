"""Learned-query readouts: any number of tokens becomes one vector of fixed width (EF-VLA, appendix; OTTER).

Shape letters: B batch, N tokens, K token width, R readouts, W readout width, O = R * W output width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.nn.attention import CrossAttention, mlp
from fovea.tokens import Tokens

BlockStyle = Literal["pre_ln", "otter"]


class ReadoutBlock(nn.Module):
    """Cross-attention, then MLP.

    Non-obvious: with style `otter` the residual runs on the normalised stream, q = LN(q) + Attention(LN(q)),
    as in that release; `pre_ln` is the ordinary q = q + Attention(LN(q)).
    """

    def __init__(self, width: int, context_width: int, heads: int, hidden: int, style: BlockStyle) -> None:
        super().__init__()
        self.style = style
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CrossAttention(width, context_width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = mlp(width, hidden)

    def forward(
        self, x: Tensor, context: Tensor, mask: Tensor | None, maps: list[Tensor] | None = None
    ) -> Tensor:
        normed = self.attention_norm(x)
        x = (normed if self.style == "otter" else x) + self.attention(normed, context, mask, maps)
        normed = self.mlp_norm(x)
        return (normed if self.style == "otter" else x) + self.mlp(normed)


class Readouts(nn.Module):
    """Pool tokens into one vector: learned queries, cross-attention blocks, a final LayerNorm, flatten.

    Args:
        context_width: K.
        out_width: O; each of the readouts is O / R wide, and the MLPs of the blocks are O wide inside.
        readouts: R.
        style: `pre_ln` (default; also normalises the tokens) or `otter`.

    Raises:
        FoveaError: the readouts do not divide `out_width`, or the heads do not divide a readout.
    """

    def __init__(
        self,
        context_width: int,
        out_width: int,
        *,
        readouts: int = 4,
        blocks: int = 2,
        heads: int = 8,
        style: BlockStyle = "pre_ln",
    ) -> None:
        super().__init__()
        if out_width % readouts:
            raise FoveaError(
                f"expected a pooling width that {readouts} readouts divide, got {out_width}; change either"
            )
        width = out_width // readouts
        self.query = nn.Parameter(torch.randn(readouts, width))
        # no affine part: the key and value projections that follow can do its work
        norm = nn.LayerNorm(context_width, elementwise_affine=False)
        self.context_norm = norm if style == "pre_ln" else nn.Identity()
        self.blocks = nn.ModuleList(
            ReadoutBlock(width, context_width, heads, out_width, style) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tokens, maps: list[Tensor] | None = None) -> Tensor:
        """Tokens (..., N, K) -> (..., O). Masked tokens never matter; each row must hold a real one.

        `maps` gets the attention (B, heads, R, N) of every block appended, leading axes in one.
        """
        lead = tokens.values.shape[:-2]
        context = self.context_norm(tokens.values.flatten(0, -3))
        mask = None if tokens.mask.all() else tokens.mask.flatten(0, -2)
        x = self.query.expand(len(context), -1, -1)
        for block in self.blocks:
            x = block(x, context, mask, maps)
        return self.norm(x).reshape(*lead, -1)
