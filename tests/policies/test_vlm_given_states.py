"""States and tokens that a batch brings along: padding changes nothing, and what does not fit is refused."""

from typing import Any

import pytest
import torch
from lerobot.configs import NormalizationMode

from fovea.errors import FoveaError
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.focus_vla.modeling_focus_vla import FocusVLAPolicy
from fovea.vlm.config import VLMConfig

LAYERS, WIDTH, FEATURES, TOKENS, QUERIES = 2, 16, 12, 32, 5
PATTERNS = ("mixed", "cascaded", "parallel")


def policy(**changes: Any) -> FocusVLAPolicy:
    torch.manual_seed(0)
    sizes = {"layers": LAYERS, "width": WIDTH, "heads": 2, "encoder_grid": (4, 4), "feature_width": FEATURES}
    vlm = VLMConfig.toy(patch_pool=1, **sizes)
    config = FocusVLAConfig.tiny(vlm=vlm, states_from="batch", device="cpu", **{"top_k": 8, **changes})
    return FocusVLAPolicy(config).eval()


def batch(count: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "observation.vlm.vision": (count, LAYERS, TOKENS, WIDTH),
        "observation.vlm.queries": (count, LAYERS, QUERIES, WIDTH),
        "observation.vlm.features": (count, TOKENS, FEATURES),
        "observation.state": (count, 8),
    }
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [("vlm", "vision", "vision"), ("ds", "features", "features"), ("vlm+ds", "vision", "features")],
)
def test_keys_and_values_are_made_of_what_the_representation_says(kind, key, value):
    acting, given = policy(representation=kind, top_k=None), batch()
    maps, actions = acting.attention(given).weights[0], acting.predict(given)  # the first layer: keys only
    for name in ("vision", "features"):
        other = given | {f"observation.vlm.{name}": given[f"observation.vlm.{name}"].flip(-1)}
        assert torch.equal(acting.attention(other).weights[0], maps) is (name != key)
        assert torch.allclose(acting.predict(other), actions, atol=1e-6) is (name not in (key, value))


@pytest.mark.parametrize(
    ("mode", "clips"),
    [(NormalizationMode.QUANTILES, True), ("QUANTILES", True), (NormalizationMode.MEAN_STD, False)],
)
def test_a_state_beyond_its_quantiles_is_clipped(mode, clips):
    scaling = {"ACTION": NormalizationMode.QUANTILES, "STATE": mode, "VISUAL": NormalizationMode.IDENTITY}
    acting, given = policy(normalization_mapping=scaling), batch()
    far = given["observation.state"] * 9
    actions = acting.predict(given | {"observation.state": far})
    edge = acting.predict(given | {"observation.state": far.clamp(-1, 1)})
    assert torch.equal(actions, edge) is clips


@pytest.mark.parametrize("attention", PATTERNS)
@pytest.mark.parametrize("pool", [False, True])
def test_padding_may_hold_anything_even_no_number(attention, pool):
    acting, given = policy(attention=attention, pool_vision=pool), batch()
    mask = torch.ones(3, TOKENS, dtype=torch.bool)
    mask[0, 16:] = False  # no second camera
    mask[1, [1, 4, 5]] = False  # one patch is left of the first square
    given["observation.vlm.mask"] = mask
    expected = acting.predict(given)
    for filling in (100.0, float("nan"), float("inf")):
        for key in ("observation.vlm.vision", "observation.vlm.features"):
            values = given[key]
            hidden = ~(mask[:, None, :, None] if values.ndim == 4 else mask[..., None])
            given[key] = values.masked_fill(hidden, filling)
        actions = acting.predict(given)
        assert torch.allclose(actions, expected, atol=1e-6)
    acting.predict(given).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in acting.parameters())


def test_half_a_square_is_pooled_to_the_mean_of_what_is_there():
    acting, given = policy(attention="cascaded", pool_vision=True, top_k=None), batch(1)
    mask = torch.ones(1, TOKENS, dtype=torch.bool)
    mask[0, [1, 4, 5]] = False
    masked = acting.predict(given | {"observation.vlm.mask": mask})
    for key in ("observation.vlm.vision", "observation.vlm.features"):
        given[key][..., [1, 4, 5], :] = given[key][..., :1, :].clone()  # four copies of the one that is left
    assert torch.allclose(acting.predict(given), masked, atol=1e-6)


@pytest.mark.parametrize("attention", PATTERNS)
def test_a_sample_that_sees_nothing_is_refused_by_number(attention):
    mask = torch.ones(3, TOKENS, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(FoveaError, match=r"at least one real vision token.*\[2\]"):
        policy(attention=attention).predict(batch() | {"observation.vlm.mask": mask})


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("observation.vlm.features", None, r"expected observation\.vlm\.features"),
        ("observation.vlm.features", (3, TOKENS, FEATURES + 1), "expected raw features"),
        ("observation.vlm.features", (3, TOKENS - 1, FEATURES), "expected raw features"),
        ("observation.vlm.queries", (3, LAYERS + 1, QUERIES, WIDTH), "embeddings are not among them"),
        ("observation.vlm.queries", (3, LAYERS, QUERIES, WIDTH + 1), "of the action queries"),
        ("observation.vlm.vision", (3, LAYERS + 1, TOKENS, WIDTH), "expected states"),
        ("observation.vlm.mask", (3, TOKENS + 1), "expected a mask"),
        ("observation.state", (3, 7), "expected proprioception"),
    ],
)
def test_states_that_do_not_fit_are_refused(key, change, message):
    given = batch()
    if change is None:
        del given[key]
    else:
        given[key] = torch.ones(change)
    with pytest.raises(FoveaError, match=message):
        policy().predict(given)


def test_states_alone_need_no_raw_features():
    given = batch()
    expected = policy(representation="vlm").predict(given)
    del given["observation.vlm.features"]
    assert torch.equal(policy(representation="vlm").predict(given), expected)


def test_tokens_from_elsewhere_have_a_mask_of_their_own():
    acting, given = policy(representation="vggt", extra_width=6, top_k=4), batch()
    tokens = torch.randn(3, 10, 6)
    given |= {acting.config.extra_key: tokens, f"{acting.config.extra_key}.mask": torch.arange(10) < 7}
    with pytest.raises(FoveaError, match="one frame a sample"):
        acting.predict(given)
    given[f"{acting.config.extra_key}.mask"] = (torch.arange(10) < 7).expand(3, 10)
    expected = acting.predict(given)
    cut = given | {acting.config.extra_key: tokens[:, :7]}
    del cut[f"{acting.config.extra_key}.mask"]
    assert torch.allclose(acting.predict(cut), expected, atol=1e-6)
    given[acting.config.extra_key] = tokens.clone().index_fill_(1, torch.arange(7, 10), float("nan"))
    assert torch.allclose(acting.predict(given), expected, atol=1e-6)
    assert acting.attention(given).grid == (1, 5)
    with pytest.raises(FoveaError, match="no grid to pool"):
        policy(representation="vggt", pool_vision=True)


def test_a_gripper_that_scaling_would_move_is_refused():
    with pytest.raises(FoveaError, match="other modes move -1 and"):
        policy(normalization_mapping={"ACTION": "MEAN_STD", "STATE": "QUANTILES", "VISUAL": "IDENTITY"})


@pytest.mark.parametrize("kind", ["base", "pro"])
def test_lora_on_keys_and_values_acts_as_it_does_merged(kind):
    from peft import LoraConfig, get_peft_model

    from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
    from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy

    sizes = {"layers": LAYERS, "width": WIDTH, "heads": 2, "encoder_grid": (4, 4), "feature_width": FEATURES}
    config = VLAAdapterConfig.tiny(
        vlm=VLMConfig.toy(patch_pool=1, **sizes), states_from="batch", variant=kind, chunk_size=2, n_heads=2,
        n_action_steps=2, device="cpu",
    )  # fmt: skip
    torch.manual_seed(0)
    network = VLAAdapterPolicy(config).eval().model
    for block in network.blocks:  # a gate of zero would hide what vision's keys do
        torch.nn.init.constant_(block.attention.gate.factor, 0.7)
    given, acting = batch(), VLAAdapterPolicy(config)
    states = acting.inputs.given_states(given, torch.device("cpu"))
    adapted = get_peft_model(network, LoraConfig(r=2, target_modules=["key_self", "value_self"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    plain = adapted(states, given["observation.state"])
    plain.sum().backward()
    idle = [n for n, p in adapted.named_parameters() if "lora" in n and (p.grad is None or not p.grad.any())]
    assert not idle
    assert torch.allclose(adapted.merge_and_unload()(states, given["observation.state"]), plain, atol=1e-5)
