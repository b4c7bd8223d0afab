"""Where a CLIP's picture tower is read: each kind of tower and its taps.

X_attn (EF-VLA, eq. 2) goes through whatever the tower does to its last tokens before they are compared with words:
LayerNorm, then the visual projection; in a tower that ends in attention pooling (SigLIP, CoCa), the pooling of
a patch by itself, which is the pooling's value path, since one token gets all the attention.

Shape letters: B batch, N tokens, V tower width, D joint width, S side in pixels.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import AttentionalPooler, ResidualAttentionBlock, VisionTransformer
from timm.layers import Attention, AttentionPoolLatent
from timm.models.eva import Eva, EvaBlockPostNorm
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from fovea.encoders.base import TAPS
from fovea.nn.attention import merge_heads, split_heads
from fovea.nn.onednn import linear

Reader = Callable[[Any, Tensor, str], Tensor]


def reader_of(visual: Any) -> tuple[Reader, tuple[str, ...]] | None:
    """How to read a picture tower: (visual, pixels (B, 3, S, S), tap) -> patches (B, N, D), and the taps it has.

    None for a tower without a last attention block over a grid of patches (convolutions, windows).
    """
    if isinstance(visual, VisionTransformer):
        if visual.attn_pool is not None and visual.attn_pool_contrastive is not None:
            return None
        plain = isinstance(visual.transformer.resblocks[-1], ResidualAttentionBlock)
        return read_open_clip, TAPS if plain else ("out",)
    if isinstance(visual, TimmModel):
        if type(visual.trunk) is TimmVisionTransformer:
            plain = isinstance(visual.trunk.blocks[-1].attn, Attention)
            return read_timm, TAPS if plain else ("out",)
        if isinstance(visual.trunk, Eva):
            return read_timm, ("attn_qk", "out")  # rotary positions inside: no query-query attention
    return None


def grid_of(visual: Any) -> tuple[int, int]:
    """(rows, columns) of patches."""
    size = visual.trunk.patch_embed.grid_size if isinstance(visual, TimmModel) else visual.grid_size
    return size[0], size[1]


def read_open_clip(visual: VisionTransformer, pixels: Tensor, tap: str) -> Tensor:
    """Patches of open_clip's own vision transformer: OpenAI, LAION, DataComp, DFN, MetaCLIP, CLIPA, CoCa."""
    *blocks, last = visual.transformer.resblocks
    x = visual._embeds(pixels)
    for block in blocks:
        x = block(x)
    qq = tap == "attn_qq"
    x = last(x) if tap == "out" else last.ls_1(attend(last.attn, last.ln_1(x), query_query=qq))
    x = x[:, 1:]
    if visual.attn_pool is not None:
        x = pool_alone(visual.attn_pool, x)
    x = visual.ln_post(x)
    return x if visual.proj is None else x @ visual.proj


def read_timm(visual: TimmModel, pixels: Tensor, tap: str) -> Tensor:
    """Patches of a timm vision transformer inside open_clip: SigLIP, SigLIP 2, EVA."""
    trunk: Any = visual.trunk
    x = trunk.patch_embed(pixels)
    rope: list[Any] | None = None
    if isinstance(visual.trunk, Eva):
        x, embedding = trunk._pos_embed(x)
        each = getattr(trunk, "rope_mixed", False) and embedding is not None
        rope = [embedding[i] if each else embedding for i in range(len(trunk.blocks))]
    else:
        x = trunk.patch_drop(trunk._pos_embed(x))
    x = trunk.norm_pre(x)
    for index, block in enumerate(trunk.blocks):
        place = {} if rope is None else {"rope": rope[index]}
        if tap == "out" or index < len(trunk.blocks) - 1:
            x = block(x, **place)
        else:
            x = _last_attention(block, x, query_query=tap == "attn_qq", **place)
    x = trunk.norm(x)[:, trunk.num_prefix_tokens :]
    if trunk.attn_pool is not None:
        x = pool_alone(trunk.attn_pool, x)
    return visual.head(trunk.head(trunk.fc_norm(x)))


def attend(attention: nn.MultiheadAttention, x: Tensor, *, query_query: bool) -> Tensor:
    """Self-attention with its output projection, (B, N, V); `query_query` compares queries with queries."""
    q, k, v = (
        split_heads(part, attention.num_heads)
        for part in linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    )
    return attention.out_proj(merge_heads(F.scaled_dot_product_attention(q, q if query_query else k, v)))


def _last_attention(block: Any, x: Tensor, *, query_query: bool, **place: Any) -> Tensor:
    """What the attention of a timm block adds to the stream, (B, N, V)."""
    if isinstance(block, EvaBlockPostNorm):
        return block.norm1(block.attn(x, **place))
    x = block.norm1(x)
    if not query_query:
        x = block.attn(x, **place)
    else:
        attention = block.attn
        q, _, v = (split_heads(part, attention.num_heads) for part in attention.qkv(x).chunk(3, dim=-1))
        q = attention.q_norm(q)
        collected = attention.norm(merge_heads(F.scaled_dot_product_attention(q, q, v)))
        if attention.gate is not None:
            collected = collected * attention.gate(x).sigmoid()
        x = attention.proj(collected)
    if hasattr(block, "ls1"):
        return block.ls1(x)
    return x if block.gamma_1 is None else block.gamma_1 * x


def pool_alone(pool: Any, x: Tensor) -> Tensor:
    """Attention pooling of every token by itself: (B, N, V) -> (B, N, D).

    Non-obvious: whatever the query, the softmax over one token is 1, so only values and output projection matter.
    """
    if isinstance(pool, AttentionalPooler):
        attention, x = pool.attn, pool.ln_k(x)
        weight, joint = attention.v_proj_weight, attention.in_proj_weight
        weight = joint.chunk(3)[2] if weight is None else weight
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)[2]
        return attention.out_proj(linear(x, weight, bias))
    assert isinstance(pool, AttentionPoolLatent)
    if pool.pos_embed is not None:
        x = x + pool.pos_embed[-x.shape[1] :]
    x = pool.proj(pool.kv(x).chunk(2, dim=-1)[1])
    return x if pool.mlp is None else x + pool.mlp(pool.norm(x))
