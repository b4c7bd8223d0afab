"""Building blocks: masks hide, positions are what they say, shortcuts change no number."""

import pytest
import torch
import torch.nn.functional as F

from fovea.errors import FoveaError
from fovea.nn import CrossAttention, Readouts, sincos_1d, sincos_2d
from fovea.nn.positions import rotary_angles, rotate, rotate_as_va
from fovea.tokens import Tokens


def test_attention_over_unprojected_tokens_equals_the_ordinary_one():
    torch.manual_seed(0)
    attention = CrossAttention(64, 48, 8)
    queries, context = torch.randn(3, 4, 64), torch.randn(3, 100, 48)
    mask = torch.rand(3, 100) > 0.5
    few = attention(queries, context, mask)
    many = attention(queries.repeat(1, 3, 1), context, mask)[:, :4]  # twelve queries take the ordinary way
    assert torch.allclose(few, many, atol=1e-5)


@pytest.mark.parametrize("count", [6, 200])  # ordinary and unprojected attention
@pytest.mark.parametrize("style", ["pre_ln", "otter"])
def test_masked_tokens_never_matter(style, count):
    torch.manual_seed(0)
    pooling = Readouts(16, 256, style=style)
    values, mask = torch.randn(2, 3, count, 16), torch.ones(2, 3, count, dtype=torch.bool)
    mask[0, 1, 2:] = False
    pooled = pooling(Tokens(values, mask))
    assert pooled.shape == (2, 3, 256)
    values = values.clone()
    values[0, 1, 2:] = 1e3
    assert torch.allclose(pooling(Tokens(values, mask)), pooled, atol=1e-6)
    shorter = pooling(Tokens(values[:1, 1:2, :2], mask[:1, 1:2, :2]))
    assert torch.allclose(shorter[0, 0], pooled[0, 1], atol=1e-5)


def attend(attention: CrossAttention, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    parts = attention.query(x), attention.key(context), attention.value(context)
    q, k, v = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in parts)
    return attention.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("count", [6, 200])
def test_readouts_are_pre_ln_blocks_over_normalised_tokens(count):
    pooling = Readouts(16, 256)
    values = 3 * torch.randn(2, count, 16) + 1
    context, x = F.layer_norm(values, (16,)), pooling.query.expand(2, -1, -1)
    for block in pooling.blocks:
        x = x + attend(block.attention, block.attention_norm(x), context)
        x = x + block.mlp(block.mlp_norm(x))
    pooled = pooling(Tokens(values, torch.ones(2, count, dtype=torch.bool)))
    assert torch.allclose(pooled, pooling.norm(x).flatten(1), atol=1e-5)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(FoveaError, match="4 readouts divide"):
        Readouts(16, 30)
    with pytest.raises(FoveaError, match="8 heads divide"):
        Readouts(16, 16)
    with pytest.raises(FoveaError, match="divisible by 4"):
        sincos_2d((2, 2), 6)
    with pytest.raises(FoveaError, match="even width"):
        sincos_1d(2, 3)


def test_grid_positions_have_unit_norm_and_tell_neighbours_from_strangers():
    places = sincos_2d((16, 16), 64)
    assert torch.allclose(places.norm(dim=1), torch.ones(256))
    near, far = places[0] @ places[1], places[0] @ places[255]
    assert near > 0.8 > far
    rows = places.view(16, 16, 64)
    assert torch.equal(rows[0, :, 32:], rows[0, :1, 32:].expand(16, -1))  # the first row shares its y


def test_a_rotation_by_a_large_angle_is_as_exact_as_its_precision_allows():
    x = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    angles = rotary_angles(torch.arange(512), 64)
    for turn in (rotate, rotate_as_va):
        coarse = turn(x.bfloat16(), angles)
        assert coarse.dtype == torch.bfloat16
        assert (coarse.float() - turn(x, angles)).norm() / x.norm() < 0.01  # with rounded angles 0.1 and more


def test_rotary_attention_sees_differences_of_steps_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 16)
    at = lambda x, step: rotate(x[None], rotary_angles(torch.tensor([step]), 16))[0]  # noqa: E731
    assert torch.allclose(at(q, 7) @ at(k, 5), at(q, 2) @ at(k, 0), atol=1e-5)
    assert not torch.allclose(at(q, 7) @ at(k, 5), at(q, 7) @ at(k, 4), atol=1e-3)
