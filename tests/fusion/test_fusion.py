"""Early and late fusion: equation 1 as it stands, words that are masked, options that do what they say."""

import pytest
import torch
import torch.nn.functional as F

from fovea.fusion import FUSIONS, EarlyFusion, LateFusion
from fovea.nn import sincos_2d
from fovea.tokens import Tokens

B, T, C, N, M, D = 2, 3, 2, 16, 5, 32


@pytest.fixture
def patches() -> torch.Tensor:
    torch.manual_seed(0)
    return F.normalize(torch.randn(B, T, C, N, D), dim=-1)


@pytest.fixture
def words() -> Tokens:
    mask = torch.ones(B, M, dtype=torch.bool)
    mask[1, 3:] = False
    return Tokens(F.normalize(torch.randn(B, M, D), dim=-1), mask)


def test_early_fusion_is_equation_1_for_every_frame_and_camera(patches, words):
    fusion = EarlyFusion(D, (4, 4), C, temperature=0.05, positions="none")
    with torch.no_grad():
        fusion.log_scale.copy_(torch.tensor([1 / 0.05, 1 / 0.2]).log())
    fused = fusion(patches, words)
    for b, t, c in [(0, 0, 0), (1, 2, 1)]:
        tau = (0.05, 0.2)[c]
        expected = (words.values[b] @ patches[b, t, c].T / tau).softmax(-1) @ patches[b, t, c]
        assert torch.allclose(fused.values[b, t, c], expected, atol=1e-5)
    assert torch.equal(fused.mask[0, 1, 1], words.mask[0])
    assert torch.equal(fused.mask[1, 2, 0], words.mask[1])


def test_tau_starts_where_it_is_told_and_cannot_reach_zero(patches, words):
    fusion = EarlyFusion(D, (4, 4), C, temperature=0.07)
    assert torch.allclose(fusion.log_scale.exp(), torch.full((C,), 1 / 0.07))
    with torch.no_grad():
        fusion.log_scale.fill_(50.0)
    sharpest = fusion.attention(patches, words)
    assert torch.isfinite(fusion(patches, words).values).all()
    with torch.no_grad():
        fusion.log_scale.fill_(torch.tensor(100.0).log())
    assert torch.allclose(fusion.attention(patches, words), sharpest, atol=1e-4)


@pytest.mark.parametrize("start", [0.01, 0.012])
def test_tau_at_its_cap_comes_back(patches, words, start):
    fusion = EarlyFusion(D, (4, 4), C, temperature=start).train()
    optimizer = torch.optim.SGD(fusion.parameters(), lr=1.0)
    for direction in (1.0, 1.0, -1.0):  # twice up against the cap, once down
        fusion(patches, words)
        loss = -direction * fusion.scale.log().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fusion(patches, words)
    assert (fusion.scale < 50).all()


def test_positions_are_collected_with_the_weights_of_the_patches(patches, words):
    plain, add, concat = (
        EarlyFusion(D, (4, 4), C, **options)
        for options in (
            {"positions": "none"},
            {"positions": "sincos2d"},
            {"positions": "sincos2d", "join": "concat", "position_width": 8},
        )
    )
    weights, content = plain.attention(patches, words), plain(patches, words).values
    assert torch.allclose(add(patches, words).values, content + weights @ sincos_2d((4, 4), D), atol=1e-5)
    joined = concat(patches, words).values
    assert joined.shape[-1] == concat.out_width == D + 8
    assert torch.allclose(joined[..., :D], content, atol=1e-5)
    assert torch.allclose(joined[..., D:], weights @ sincos_2d((4, 4), 8), atol=1e-5)


@pytest.mark.parametrize("kind", FUSIONS)
def test_content_dropout_silences_whole_windows_and_only_in_training(kind, patches, words):
    fusion = FUSIONS[kind](
        D, (4, 4), C, positions="sincos2d", join="concat", position_width=8, content_dropout=0.5
    )
    many = Tokens(words.values.repeat(20, 1, 1), words.mask.repeat(20, 1))
    values = fusion.train()(patches.repeat(20, 1, 1, 1, 1), many).values
    silent = (values[..., :D] == 0).flatten(1).all(1)
    touched = (values[..., :D].norm(dim=-1) == 0).flatten(1).any(1)
    assert torch.equal(silent, touched)  # all frames and cameras of a window, or none
    assert 5 < silent.sum() < 35
    assert (values[..., D:].norm(dim=-1) > 0).all()
    assert (fusion.eval()(patches, words).values[..., :D].norm(dim=-1) > 0).all()


def test_late_fusion_passes_every_patch_with_its_place(patches, words):
    fused = LateFusion(D, (4, 4), C)(patches.half(), words)
    assert fused.mask.all()
    assert torch.allclose(fused.values, patches + sincos_2d((4, 4), D), atol=1e-3)
    assert fused.values.dtype == torch.float32
