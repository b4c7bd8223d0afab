"""Layers through oneDNN give what torch's own give, gradients included, and step aside where they cannot."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fovea.nn.onednn import linear, use_onednn


def test_linear_layers_keep_results_gradients_and_state():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(40, 96), nn.GELU(), nn.Linear(96, 24, bias=False))
    fast = use_onednn(copy.deepcopy(plain))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for other in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        given, same = (torch.randn(3, 7, 80, generator=torch.Generator().manual_seed(1)) for _ in range(2))
        given.requires_grad_()
        same.requires_grad_()
        expected, got = plain(given[..., ::2]), other(same[..., ::2])  # not contiguous
        assert torch.allclose(got, expected, atol=1e-6)
        plain.zero_grad()
        (expected**2).sum().backward()
        (got**2).sum().backward()
        assert torch.allclose(same.grad, given.grad, atol=1e-5)
        for one, two in zip(plain.parameters(), other.parameters(), strict=True):
            assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-5)


def test_frozen_weights_get_no_gradient_and_pass_it_on():
    layer = use_onednn(nn.Linear(16, 8)).requires_grad_(False)
    x = torch.randn(5, 16, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(5, -1), atol=1e-6)
    assert layer.weight.grad is None
    with torch.inference_mode():
        assert torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_and_empty_batches_run_as_before(dtype):
    x, weight = torch.randn(4, 16), torch.randn(8, 16)
    expected = nn.functional.linear(x.to(dtype), weight.to(dtype))
    assert torch.equal(linear(x.to(dtype), weight.to(dtype)), expected)
    assert linear(x[:0], weight).shape == (0, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_self_attention_is_torch_s_own(mask):
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(32, 4, batch_first=True).eval().requires_grad_(False)
    fast = use_onednn(copy.deepcopy(plain))
    x = torch.randn(2, 6, 32)
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    if mask == "float":
        hidden = torch.zeros(6, 6).masked_fill(hidden, float("-inf"))
    options = {"need_weights": False} | ({"attn_mask": hidden} if mask else {})
    assert torch.allclose(fast(x, x, x, **options)[0], plain(x, x, x, **options)[0], atol=1e-5)
    context = torch.randn(2, 9, 32)  # not self-attention: torch's own way, weights included
    for got, want in zip(fast(x, context, context), plain(x, context, context), strict=True):
        assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_layers_hold_torch_s_own_operations():
    layer = use_onednn(nn.Linear(16, 8)).requires_grad_(False)
    x = torch.randn(5, 16)
    traced = torch.jit.trace(layer, x)
    assert "mkldnn" not in str(traced.inlined_graph)
    assert torch.allclose(traced(x), layer(x), atol=1e-6)
