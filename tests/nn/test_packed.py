"""Packed layers give what the layers themselves give, and step aside where they cannot."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fovea.nn.packed import pack_linears


def frozen(layer: nn.Module) -> nn.Module:
    return layer.eval().requires_grad_(False)


def test_linear_layers_keep_their_results_and_their_state():
    plain = frozen(nn.Sequential(nn.Linear(40, 96), nn.GELU(), nn.Linear(96, 24, bias=False)))
    packed = pack_linears(copy.deepcopy(plain))
    x = torch.randn(3, 7, 40)
    assert torch.allclose(packed(x), plain(x), atol=1e-6)
    assert torch.allclose(packed(x[:, ::2]), plain(x[:, ::2]), atol=1e-6)  # not contiguous
    assert packed.state_dict().keys() == plain.state_dict().keys()
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        other[0].weight.mul_(2)
        assert torch.allclose(other(x)[0], nn.Sequential(other[0], *plain[1:])(x)[0], atol=1e-6)
        assert not torch.allclose(other(x), plain(x), atol=1e-3)
    assert torch.allclose(packed(x), plain(x), atol=1e-6)


def test_weights_that_change_are_laid_out_again():
    layer = pack_linears(frozen(nn.Linear(16, 8)))
    x = torch.randn(5, 16)
    layer(x)
    layer.load_state_dict({"weight": torch.ones(8, 16), "bias": torch.zeros(8)})
    assert torch.allclose(layer(x), x.sum(1, keepdim=True).expand(-1, 8), atol=1e-5)
    layer.weight = nn.Parameter(torch.zeros(8, 16), requires_grad=False)
    assert torch.equal(layer(x), torch.zeros(5, 8))


def test_gradients_still_flow_where_they_are_wanted():
    layer = pack_linears(nn.Linear(16, 8))
    x = torch.randn(5, 16, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(5, -1))
    frozen(layer)
    x.grad = None
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(5, -1))


@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_self_attention_is_torch_s_own(mask):
    plain = frozen(nn.MultiheadAttention(32, 4, batch_first=True))
    packed = pack_linears(copy.deepcopy(plain))
    x = torch.randn(2, 6, 32)
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    if mask == "float":
        hidden = torch.zeros(6, 6).masked_fill(hidden, float("-inf"))
    options = {"need_weights": False} | ({"attn_mask": hidden} if mask else {})
    expected, _ = plain(x, x, x, **options)
    assert torch.allclose(packed(x, x, x, **options)[0], expected, atol=1e-5)
    context = torch.randn(2, 9, 32)  # not self-attention: the layer's own way, weights included
    for got, want in zip(packed(x, context, context), plain(x, context, context), strict=True):
        assert torch.allclose(got, want, atol=1e-5)


def test_traced_layers_hold_no_packed_weights():
    layer = pack_linears(frozen(nn.Linear(16, 8)))
    x = torch.randn(5, 16)
    layer(x)
    traced = torch.jit.trace(layer, x)
    assert "mkldnn" not in str(traced.inlined_graph)
    assert torch.allclose(traced(x), layer(x), atol=1e-6)
