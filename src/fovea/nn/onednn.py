"""Linear layers on a CPU through oneDNN, forward and backward.

torch multiplies fp32 matrices with MKL, which leaves AVX-512 alone on processors that are not Intel's; oneDNN, which
torch ships for convolutions, uses it on all of them. Measured on an AMD EPYC, one core: 80 GFLOP/s with MKL, 180 with
oneDNN (docs/speed.md). Same weights, same results up to rounding.

Shape letters: B batch, N tokens, D width, O output width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from fovea.nn.attention import merge_heads, split_heads


def use_onednn[M: nn.Module](module: M) -> M:
    """Let every `nn.Linear` and `nn.MultiheadAttention` inside multiply with oneDNN; returns `module`.

    Non-obvious: it gives these layers another class, a subclass without state of its own, so state dicts, copies and
    pickles stay as they are. Where oneDNN does not apply (GPU, other precisions, autocast, tracing, compiling), a
    layer runs as before.
    """
    for layer in module.modules():
        if type(layer) in (nn.Linear, NonDynamicallyQuantizableLinear):
            layer.__class__ = OneDNNLinear
        elif type(layer) is nn.MultiheadAttention:
            layer.__class__ = OneDNNAttention
    return module


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: x (..., D), weight (O, D), bias (O,) -> (..., O), through oneDNN where it can."""
    if not _applies(x, weight, bias):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    return _Linear.apply(rows, weight, bias).view(*x.shape[:-1], -1)


class OneDNNLinear(nn.Linear):
    """`nn.Linear` through oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class OneDNNAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` through oneDNN where it is plain self-attention (B, N, D); torch's own for all else."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        mask = options.get("attn_mask")
        plain = (
            key is query
            and value is query
            and self.batch_first
            and query.ndim == 3
            and self._qkv_same_embed_dim
            and self.bias_k is None
            and not self.add_zero_attn
            and not (self.training and self.dropout)
            and not args
            and options.keys() <= {"need_weights", "attn_mask"}
            and options.get("need_weights", True) is False
            and (mask is None or mask.ndim == 2)
        )
        if not plain or not _applies(query, self.in_proj_weight, self.in_proj_bias):
            return super().forward(query, key, value, *args, **options)
        qkv = linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (split_heads(part, self.num_heads) for part in qkv.chunk(3, dim=-1))
        if mask is not None and mask.dtype == torch.bool:
            mask = ~mask  # True hides there, shows here
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(merge_heads(y)), None


class _Linear(torch.autograd.Function):
    """x (R, D), weight (O, D) -> (R, O); the gradients are products of the same kind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (of_y,) = gradients
        wanted = ctx.needs_input_grad
        of_x = _product(of_y, weight.t()) if wanted[0] else None
        of_weight = _product(of_y.t(), x.t()) if wanted[1] else None
        return of_x, of_weight, of_y.sum(0) if wanted[2] else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (R, D) times the transposed weight (O, D), plus bias: (R, O)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _applies(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    tensors = (x, weight) if bias is None else (x, weight, bias)
    plain = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
    return plain and x.numel() > 0 and _AVAILABLE


_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
