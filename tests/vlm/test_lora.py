"""Adapters alone, on one layer."""

import torch
from torch import nn

from fovea.vlm.lora import add_lora, merge_lora


@torch.no_grad()
def test_an_adapter_adds_alpha_over_rank_times_its_product():
    torch.manual_seed(0)
    base = nn.Linear(6, 5)
    model, weight, x = nn.Sequential(base), base.weight.clone(), torch.randn(3, 6)
    assert add_lora(model, rank=2, alpha=8) == 1
    down, up = (getattr(model[0], name)["default"].weight for name in ("lora_A", "lora_B"))
    nn.init.normal_(up)
    expected = weight + 8 / 2 * up @ down
    assert torch.allclose(model(x), nn.functional.linear(x, expected, base.bias), atol=1e-5)
    assert merge_lora(model) == 1
    assert torch.allclose(model[0].weight, expected, atol=1e-6)
