"""Mixed, cascaded and focus attention: what must come out the same, and what must not matter."""

import pytest
import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.fusion import CascadedAttention, FocusAttention, MixedAttention, Selection
from fovea.nn.attention import CrossAttention, split_heads

B, N, M, D, HEADS, VALUE = 3, 5, 24, 32, 4, 20
CLOSE = {"atol": 1e-5, "rtol": 0.0}


def vision(seed: int = 0, queries: int = N) -> dict[str, Tensor]:
    """Latent, queries of the heads, key and value tokens."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, queries, D, generator=generator)
    return {
        "x": x,
        "q": split_heads(torch.randn(B, queries, D, generator=generator), HEADS),
        "keys": torch.randn(B, M, D, generator=generator),
        "values": torch.randn(B, M, VALUE, generator=generator),
    }


def focus(k: int | None = None, scope="query", gate="none", cameras=2) -> FocusAttention:
    torch.manual_seed(1)
    return FocusAttention(D, HEADS, D, VALUE, selection=Selection(k, scope, cameras), gate=gate)


def cascade(**changes) -> CascadedAttention:
    torch.manual_seed(1)
    return CascadedAttention(D, HEADS, query_width=D, key_width=D, value_width=VALUE, **changes)


def randomise(module: nn.Module) -> None:
    """Also what begins at zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("scope", ["query", "shared", "camera"])
def test_k_of_all_tokens_is_no_selection(scope):
    inputs = vision()
    for k in (M, M + 7):
        assert torch.equal(focus(k, scope)(**inputs), focus(None)(**inputs))
    assert not torch.allclose(focus(M // 2, scope)(**inputs), focus(None)(**inputs), atol=1e-3)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("scope", ["query", "shared", "camera"])
def test_k_of_all_tokens_is_no_selection_in_mixed_attention(scope, separate):
    def mixed(k):
        torch.manual_seed(1)
        attention = MixedAttention(
            *(D, HEADS),
            query_width=D,
            key_width=D,
            value_width=D,
            separate=separate,
            selection=Selection(k, scope, 2),
        )
        attention.gate.factor.data.fill_(0.7)
        return attention

    x, keys, context = torch.randn(B, N, D), torch.randn(B, M, D), torch.randn(B, 6, D)
    assert torch.equal(mixed(M)(x, context, keys, keys), mixed(None)(x, context, keys, keys))
    assert not torch.allclose(
        mixed(4)(x, context, keys, keys), mixed(None)(x, context, keys, keys), atol=1e-4
    )


@pytest.mark.parametrize(("kind", "name"), [("scalar", "factor"), ("head", "bias"), ("element", "bias")])
def test_a_gate_forced_to_one_is_no_gate(kind, name):
    inputs, gated, plain = vision(), focus(8, gate=kind), focus(8)
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if not k.startswith("gate")})
    half = gated(**inputs)
    parameter = gated.gate.factor if name == "factor" else gated.gate.opening.bias
    parameter.data.fill_(100.0)
    assert torch.allclose(gated(**inputs), plain(**inputs), **CLOSE)
    expected = torch.zeros_like(half) if kind == "scalar" else plain(**inputs) / 2
    assert torch.allclose(half, expected, **CLOSE)  # where it begins


def test_a_mixed_gate_forced_to_one_is_no_gate():
    def mixed(gate):
        torch.manual_seed(1)
        return MixedAttention(D, HEADS, query_width=D, key_width=D, value_width=D, gate=gate)

    x, keys, context = torch.randn(B, N, D), torch.randn(B, M, D), torch.randn(B, 6, D)
    plain = mixed("none")(x, context, keys, keys)
    for kind in ("scalar", "head", "element"):
        gated = mixed(kind)
        gated.load_state_dict(mixed("none").state_dict(), strict=False)
        open_gate = gated.gate.factor if kind == "scalar" else gated.gate.opening.bias
        assert not torch.allclose(gated(x, context, keys, keys), plain, atol=1e-4)
        open_gate.data.fill_(100.0)
        assert torch.allclose(gated(x, context, keys, keys), plain, **CLOSE)


@pytest.mark.parametrize("kind", ["head", "element"])
def test_a_mixed_gate_shuts_out_vision_alone(kind):
    torch.manual_seed(1)
    mixed = MixedAttention(D, HEADS, query_width=D, key_width=D, value_width=D, gate=kind)
    mixed.gate.opening.bias.data.fill_(-100.0)
    x, keys, context = torch.randn(B, N, D), torch.randn(B, M, D), torch.randn(B, 6, D)
    shut = mixed(x, context, keys, keys)
    assert torch.allclose(mixed(x, context, keys, keys + 1), shut, **CLOSE)
    assert not torch.allclose(mixed(x, context + 1, keys, keys), shut, atol=1e-3)


def test_every_head_has_its_own_opening():
    gated, plain, inputs = focus(gate="head"), focus(), vision()
    randomise(gated.gate)
    openings = gated.gate.opening(inputs["x"]).sigmoid().repeat_interleave(D // HEADS, dim=-1)
    assert torch.allclose(gated(**inputs), plain(**inputs) * openings, **CLOSE)


@pytest.mark.parametrize("order", ["sequential", "parallel"])
@pytest.mark.parametrize("tokens", [M, 200])  # projected and unprojected keys
def test_a_cascade_without_two_stages_is_plain_cross_attention(order, tokens):
    cascaded = cascade(stages=("vision",), gate="none", order=order)
    torch.manual_seed(2)
    plain = CrossAttention(D, D, HEADS)
    plain.value = nn.Linear(VALUE, D)
    plain.load_state_dict(
        {
            f"{ours}.{part}": getattr(theirs, part)
            for ours, theirs in {
                "query": cascaded.query,
                "key": cascaded.vision.key,
                "value": cascaded.vision.value,
                "out": cascaded.fuse,
            }.items()
            for part in ("weight", "bias")
        }
    )
    x, keys, values = torch.randn(B, N, D), torch.randn(B, tokens, D), torch.randn(B, tokens, VALUE)
    q, k, v = (split_heads(y, HEADS) for y in (plain.query(x), plain.key(keys), plain.value(values)))
    expected = plain.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    assert torch.allclose(cascaded(x, x, keys, values), expected, **CLOSE)


def test_the_cascade_follows_its_equations():
    cascaded = cascade(gate="element", selection=Selection(6))
    randomise(cascaded)
    x, context, keys, values = (
        torch.randn(B, N, D),
        torch.randn(B, 7, D),
        torch.randn(B, M, D),
        torch.randn(B, M, VALUE),
    )

    def attend(
        a: Tensor, key: nn.Linear, value: nn.Linear, k_tokens: Tensor, v_tokens: Tensor, k: int
    ) -> Tensor:
        q, keys_, values_ = (
            split_heads(y, HEADS) for y in (cascaded.query(a), key(k_tokens), value(v_tokens))
        )
        scores = q @ keys_.transpose(-1, -2) / (D // HEADS) ** 0.5
        threshold = scores.topk(k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < threshold, float("-inf"))
        return (scores.softmax(-1) @ values_).transpose(1, 2).flatten(2)

    own, asked, seen = cascaded.self_stream, cascaded.query_stream, cascaded.vision
    o_s = attend(x, own.key, own.value, x, x, N)
    a1 = x + o_s
    o_q = attend(a1, asked.key, asked.value, context, context, 7)
    a2 = a1 + o_q
    o_v = attend(a2, seen.key, seen.value, keys, values, 6) * seen.gate.opening(a2).sigmoid()
    expected = cascaded.fuse(torch.cat([o_s, o_q, o_v], dim=-1))
    assert torch.allclose(cascaded(x, context, keys, values), expected, atol=1e-4)


def test_parallel_stages_do_not_hear_one_another():
    x, context, keys, values = (
        torch.randn(B, N, D),
        torch.randn(B, 7, D),
        torch.randn(B, M, D),
        torch.randn(B, M, VALUE),
    )
    outputs = {}
    for order in ("sequential", "parallel"):
        cascaded = cascade(order=order, gate="none")
        cascaded.fuse.weight.data[:, : 2 * D] = 0  # vision only
        outputs[order] = [cascaded(x, c, keys, values) for c in (context, context + 1)]
    assert torch.equal(*outputs["parallel"])
    assert not torch.allclose(*outputs["sequential"], atol=1e-4)


@pytest.mark.parametrize("k", [1, 5, 23])
def test_with_one_query_and_one_head_own_and_shared_sets_are_the_same(k):
    torch.manual_seed(1)
    inputs = vision(queries=1) | {"q": torch.randn(B, 1, 1, D)}
    outputs = []
    for scope in ("query", "shared"):
        torch.manual_seed(1)
        outputs.append(FocusAttention(D, 1, D, VALUE, selection=Selection(k, scope), gate="none")(**inputs))
    assert torch.allclose(*outputs, **CLOSE)


@pytest.mark.parametrize("tokens", [M, 300])
def test_gathering_a_shared_set_equals_masking_the_rest(tokens):
    attention = focus(tokens // 2, "shared", gate="element")
    randomise(attention)
    inputs = vision() | {"keys": torch.randn(B, tokens, D), "values": torch.randn(B, tokens, VALUE)}
    results = []
    for gather in (True, False):
        attention.gather = gather
        attention.zero_grad()
        maps: list[Tensor] = []
        keys = inputs["keys"].clone().requires_grad_()
        output = attention(**inputs | {"keys": keys}, maps=maps)
        output.square().sum().backward()
        results.append((output, maps[0], keys.grad, attention.value.weight.grad.clone()))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scope", ["query", "shared", "camera"])
@pytest.mark.parametrize("k", [None, 4, 20])
def test_padding_is_never_attended_to(scope, k):
    attention, inputs = focus(k, scope), vision()
    mask = torch.ones(B, M, dtype=torch.bool)
    mask[0, 3:] = False  # fewer real tokens than K
    mask[1, ::2] = False
    maps: list[Tensor] = []
    output = attention(**inputs, mask=mask, maps=maps)
    assert torch.isfinite(output).all()
    assert maps[0].sum(-1).allclose(torch.ones(()), atol=1e-5)
    assert (maps[0] * ~mask[:, None, None] == 0).all()
    loud = inputs | {
        name: torch.where(mask[..., None], inputs[name], torch.tensor(1e3)) for name in ("keys", "values")
    }
    assert torch.allclose(attention(**loud, mask=mask), output, **CLOSE)


@pytest.mark.parametrize("scope", ["query", "shared"])
def test_padding_takes_no_place_among_the_k_of_mixed_attention(scope):
    torch.manual_seed(1)
    mixed = MixedAttention(D, HEADS, query_width=D, key_width=D, value_width=D, selection=Selection(5, scope))
    mixed.gate.factor.data.fill_(0.7)
    x, keys, context = torch.randn(B, N, D), torch.randn(B, M, D), torch.randn(B, 6, D)
    real = torch.arange(M).expand(B, M) < 7
    short = mixed(x, context, keys[:, :7], keys[:, :7])
    assert torch.allclose(mixed(x, context, keys, keys, real), short, **CLOSE)


@pytest.mark.parametrize("scope", ["query", "shared", "camera"])
def test_gradients_reach_kept_tokens_and_only_those(scope):
    attention, inputs = focus(6, scope), vision()
    tokens = {name: inputs[name].requires_grad_() for name in ("keys", "values")}
    maps: list[Tensor] = []
    attention(**inputs, maps=maps)[:, :1].square().sum().backward()
    kept = (maps[0][:, :, :1] > 0).any(dim=(1, 2))  # by a head of the first query
    assert 0 < kept.sum() < kept.numel()
    for value in tokens.values():
        assert torch.equal(value.grad.abs().sum(-1) > 0, kept)


def test_every_camera_has_its_share():
    attention, inputs = focus(7, "camera"), vision()
    inputs["keys"][:, : M // 2] += 5.0  # the first camera would win everything
    maps: list[Tensor] = []
    attention(**inputs, maps=maps)
    per_camera = (maps[0] > 0).unflatten(-1, (2, M // 2)).sum(-1)
    assert (per_camera[..., 0] == 4).all()
    assert (per_camera[..., 1] == 3).all()
    with pytest.raises(FoveaError, match="3 cameras"):
        Selection(6, "camera", 3).keep(torch.zeros(1, 1, 1, 25))


@pytest.mark.parametrize("scope", ["query", "shared", "camera"])
def test_the_order_of_a_batch_does_not_matter(scope):
    attention, inputs = focus(6, scope, gate="element"), vision()
    order = torch.tensor([2, 0, 1])
    turned = attention(**{name: value[order] for name, value in inputs.items()})
    assert torch.allclose(turned, attention(**inputs)[order], **CLOSE)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(FoveaError, match="top K of at least one"):
        Selection(0)
    with pytest.raises(FoveaError, match="scope"):
        Selection(3, "everyone")
    with pytest.raises(FoveaError, match="gate"):
        focus(gate="wide")
    with pytest.raises(FoveaError, match="order"):
        cascade(order="random")
    with pytest.raises(FoveaError, match="stages"):
        cascade(stages=("vision", "self"))
    with pytest.raises(FoveaError, match="variant=pro"):
        MixedAttention(D, HEADS, query_width=D, key_width=D, value_width=VALUE)
    with pytest.raises(FoveaError, match="rotary"):
        cascade(rotary="half")
