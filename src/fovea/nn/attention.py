"""Multi-head attention, plain and over a context, and the MLP that follows it.

Shape letters: B batch, N queries, M context tokens, D width, K context width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.nn.positions import rotate


def check_heads(width: int, heads: int) -> None:
    """Refuse a width that the heads do not divide."""
    if width % heads:
        raise FoveaError(f"expected a width that {heads} heads divide, got {width}; change one of them")


class CrossAttention(nn.Module):
    """Multi-head attention of queries (B, N, D) over a context (B, M, K).

    Non-obvious: a few queries over many tokens (readouts over patches) are computed without projecting the
    tokens: q . (W x) = (W^T q) . x, and likewise for the values. Same numbers, less work.
    """

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, context: Tensor, mask: Tensor | None = None, maps: list[Tensor] | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, N, D).
            context: (B, M, K).
            mask: (B, M), True where the context is real.
            maps: gets the attention (B, heads, N, M) appended.
        """
        q = split_heads(self.query(x), self.heads)
        attend = None if mask is None else mask[:, None, None, :]
        if maps is not None or cheaper_unprojected(q, self.key, context):
            scores = key_scores(q * q.shape[-1] ** -0.5, self.key, context)
            if attend is not None:
                scores = scores.masked_fill(~attend, float("-inf"))
            weights = scores.softmax(dim=-1)
            if maps is not None:
                maps.append(weights)
            return self.out(merge_heads(collect_values(weights, self.value, context)))
        k, v = split_heads(self.key(context), self.heads), split_heads(self.value(context), self.heads)
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=attend)))


class CausalSelfAttention(nn.Module):
    """Multi-head causal attention of a sequence (B, N, D), with keys and values of earlier steps if given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None = None, angles: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend.

        Args:
            x: (B, N, D). With `past`, N must be 1: the step that follows it.
            past: keys and values (B, heads, steps before, D / heads).
            angles: (N, D / heads / 2) rotary angles of the steps of x.

        Returns:
            (B, N, D) and the keys and values of all steps so far.
        """
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        if past is not None:
            k, v = concat_steps(past[0], k), concat_steps(past[1], v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        return self.out(merge_heads(y)), (k, v)


def mlp(width: int, hidden: int) -> nn.Sequential:
    """Linear, GELU, Linear: the usual feed-forward of a transformer block."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def cheaper_unprojected(q: Tensor, layer: nn.Module, tokens: Tensor) -> bool:
    """Whether all heads' queries together are fewer than the tokens (and the width), so that reassociation pays.

    Only of a plain linear layer: one that wraps it (LoRA, int8) does more than its weight says.
    """
    return isinstance(layer, nn.Linear) and q.shape[1] * q.shape[2] < min(layer.out_features, tokens.shape[1])


def key_scores(q: Tensor, key: nn.Linear, tokens: Tensor) -> Tensor:
    """Dot products of queries with keys that `key` makes of tokens, the keys themselves computed only where it pays.

    Args:
        q: (B, heads, N, D / heads), already scaled.
        key: K to D.
        tokens: (B, M, K).

    Returns:
        (B, heads, N, M).
    """
    heads = q.shape[1]
    if not cheaper_unprojected(q, key, tokens):
        return q @ split_heads(key(tokens), heads).transpose(-1, -2)
    split = (heads, -1)
    turned = torch.einsum("bhnd,hdk->bhnk", q, key.weight.unflatten(0, split)).flatten(1, 2)
    offset = torch.einsum("bhnd,hd->bhn", q, key.bias.unflatten(0, split)).flatten(1, 2)
    return torch.baddbmm(offset[..., None], turned, tokens.transpose(1, 2)).unflatten(1, split)


def collect_values(weights: Tensor, value: nn.Linear, tokens: Tensor) -> Tensor:
    """Weighted sum of the values that `value` makes of tokens, the values themselves computed only where it pays.

    Args:
        weights: (B, heads, N, M); they need not sum to 1.
        value: K to D.
        tokens: (B, M, K).

    Returns:
        (B, heads, N, D / heads).
    """
    heads = weights.shape[1]
    if not cheaper_unprojected(weights, value, tokens):
        return weights @ split_heads(value(tokens), heads)
    split = (heads, -1)
    collected = (weights.flatten(1, 2) @ tokens).unflatten(1, split)
    values = torch.einsum("bhnk,hdk->bhnd", collected, value.weight.unflatten(0, split))
    return values + weights.sum(-1, keepdim=True) * value.bias.unflatten(0, split)[:, None]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, D / heads) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


def concat_steps(past: Tensor, new: Tensor) -> Tensor:
    """Append along the step axis of (B, heads, steps, D / heads)."""
    return torch.cat([past, new], dim=2)
