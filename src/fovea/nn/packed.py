"""Frozen linear layers on a CPU, through oneDNN with weights laid out once.

torch multiplies fp32 matrices with MKL, which leaves AVX-512 alone on processors that are not Intel's; oneDNN, which
torch ships too, uses it, and multiplies fastest by weights in its own layout. Frozen weights are laid out once.

Shape letters: B batch, N tokens, M context tokens, D width, O output width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fovea.nn.attention import merge_heads, split_heads

_FEW_ROWS = 256  # the number of rows that the layout is made for; any number works


def pack_linears[M: nn.Module](module: M) -> M:
    """Let every `nn.Linear` and `nn.MultiheadAttention` inside run packed where that is possible; returns `module`.

    Weights, state dict and results (up to rounding) stay as they are. A layer runs packed in fp32 on a CPU when no
    gradient is wanted of it; in all other cases (training, GPU, autocast, tracing, compiling) it runs as before.

    Non-obvious: it costs the memory of a second copy of the weights, made at the first call. Weights that change
    afterwards are noticed and laid out again.
    """
    if not _available():
        return module
    for layer in module.modules():
        if "forward" in vars(layer):
            continue
        if type(layer) in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
            layer.forward = PackedForward(layer)  # type: ignore[method-assign]
        elif type(layer) is nn.MultiheadAttention:
            layer.forward = PackedAttention(layer)  # type: ignore[method-assign]
    return module


class _Packed:
    """A forward in place of a layer's own, with the weights in oneDNN's layout; copies and pickles leave that out."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._weight: Tensor | None = None
        self._made_of: tuple[Tensor, int, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.layer,)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        packed, old = self._weight, self._made_of
        at, version = weight.data_ptr(), weight._version
        if packed is None or old is None or old[0] is not weight or old[1:] != (at, version):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _FEW_ROWS)
            self._weight, self._made_of = packed, (weight, at, version)
        rows = x.reshape(-1, x.shape[-1])
        y = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
        return y.view(*x.shape[:-1], -1)


class PackedForward(_Packed):
    """`nn.Linear.forward`: (..., D) -> (..., O)."""

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not _can_pack(x, layer.weight):
            return nn.functional.linear(x, layer.weight, layer.bias)
        return self._linear(x, layer.weight, layer.bias)


class PackedAttention(_Packed):
    """`nn.MultiheadAttention.forward` where it is plain self-attention (B, N, D); the layer's own for all else."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        layer = self.layer
        plain = (
            key is query
            and value is query
            and not args
            and layer.batch_first
            and query.ndim == 3
            and layer._qkv_same_embed_dim
            and layer.bias_k is None
            and not layer.add_zero_attn
            and not (layer.training and layer.dropout)
            and options.get("need_weights", True) is False
            and options.keys() <= {"need_weights", "attn_mask"}
        )
        mask = options.get("attn_mask")
        if not plain or (mask is not None and mask.ndim != 2) or not _can_pack(query, layer.in_proj_weight):
            return nn.MultiheadAttention.forward(layer, query, key, value, *args, **options)
        qkv = self._linear(query, layer.in_proj_weight, layer.in_proj_bias)
        q, k, v = (split_heads(part, layer.num_heads) for part in qkv.chunk(3, dim=-1))
        if mask is not None and mask.dtype == torch.bool:
            mask = ~mask  # True hides there, shows here
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return layer.out_proj(merge_heads(y)), None


def _available() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _can_pack(x: Tensor, weight: Tensor) -> bool:
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    elsewhere = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return plain and not wanted and not elsewhere and x.numel() > 0 and not weight.is_inference()
