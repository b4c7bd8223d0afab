"""The wrapper, and that it alone changes when a graft is trained."""

import hashlib

import numpy as np
import pytest
import torch
from toy_graft import Columns

from fovea.errors import FoveaError
from fovea.grafting.runs import Job, run_cell
from fovea.grafting.wrapper import Graft, Projector, pool, to_uint8


def digest(module: torch.nn.Module) -> dict[str, str]:
    """Every weight and buffer to the bit."""
    state = module.state_dict(keep_vars=False)
    return {
        n: hashlib.sha256(v.detach().contiguous().view(-1).numpy().tobytes()).hexdigest()
        for n, v in state.items()
    }


def test_the_wrapper_pools_normalises_and_maps_linearly():
    torch.manual_seed(0)
    projector, patches = Projector((6, 6), 5, 3, 7, scale=0.5, seed=1), torch.randn(2, 36, 5)
    pooled = patches.view(2, 3, 2, 3, 2, 5).mean((2, 4)).view(2, 9, 5)
    normed = (pooled - pooled.mean(-1, keepdim=True)) / (
        pooled.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    expected = normed @ projector.linear.weight.T + projector.linear.bias
    assert torch.allclose(projector(patches), expected, atol=1e-6)
    assert [name for name, _ in projector.named_parameters()] == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize(("own", "side"), [(7, 8), (14, 8), (16, 8), (14, 16), (8, 8), (9, 1)])
def test_pooling_is_torchs_adaptive_average_on_the_upright_grid(own, side):
    patches = torch.randn(2, own * own, 3)
    picture = patches.transpose(1, 2).reshape(2, 3, own, own)
    expected = torch.nn.functional.adaptive_avg_pool2d(picture, side)
    assert torch.equal(pool(patches, (own, own), side).transpose(1, 2).reshape(2, 3, side, side), expected)


def test_tokens_start_at_the_asked_scale_and_depend_on_the_seed():
    patches = torch.randn(64, 64, 96)
    first, same, other = (Projector((8, 8), 96, 8, 128, scale=0.3, seed=s)(patches) for s in (1, 1, 2))
    assert first.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.05)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_tokens_have_the_language_models_dtype():
    assert Projector((4, 4), 3, 2, 5, dtype=torch.bfloat16)(torch.randn(1, 16, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("grid", [(12, 16), (0, 0)])
def test_a_grid_that_is_not_square_is_refused(grid):
    with pytest.raises(FoveaError, match=rf"square grid of patches, got {grid[0]} x {grid[1]}"):
        Projector(grid, 8, 8, 16)


def test_patches_of_another_encoder_are_refused():
    with pytest.raises(FoveaError, match=r"expected patches \(B, 16, 3\), got \(2, 16, 4\)"):
        Projector((4, 4), 3, 2, 5)(torch.randn(2, 16, 4))


def test_the_policy_itself_runs_on_the_graft_and_afterwards_as_before(backbone):
    encoder = Columns().freeze()
    picture = torch.rand(2, 3, 32, 32) * 2 - 1
    before = backbone.hook.owner.embed_image(picture)
    projector = Projector(encoder.grid, encoder.width, backbone.side, backbone.width)
    with Graft(backbone.hook, projector, encoder):
        grafted = backbone.hook.owner.embed_image(picture)
        assert torch.equal(grafted, projector(encoder.encode_image(to_uint8(picture)).values))
        with pytest.raises(FoveaError, match="already carries a graft"), Graft(backbone.hook, projector):
            pass
    assert grafted.shape == before.shape == (2, 16, 32)
    assert not torch.equal(grafted, before)
    assert torch.equal(backbone.hook.owner.embed_image(picture), before)


def test_pictures_of_the_wrong_size_are_refused(backbone):
    projector = Projector((8, 8), 4, backbone.side, backbone.width)
    refused = pytest.raises(FoveaError, match=r"expected pictures \(B, 3, 32, 32\).*got \(1, 3, 48, 32\)")
    with Graft(backbone.hook, projector, Columns()) as graft, refused:
        graft(torch.zeros(1, 3, 48, 32))
    with Graft(backbone.hook, projector) as graft, pytest.raises(FoveaError, match="no encoder"):
        graft(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("kind", ["graft", "wrapped", "lora", "native"])
def test_no_parameter_of_the_backbone_changes_by_a_bit(kind, backbone, samples, make_job):
    job: Job = make_job(kind)
    before = digest(backbone.policy)
    record = run_cell(backbone, samples, job)
    assert digest(backbone.policy) == before
    assert not any(parameter.requires_grad for parameter in backbone.policy.parameters())
    assert len(record["losses"]) == (0 if kind == "native" else job.recipe.steps)
    adapted = [
        layer.in_features + layer.out_features
        for name, layer in backbone.policy.named_modules()
        if name.endswith(("self_attn.q_proj", "self_attn.v_proj")) and "vision_model" not in name
    ]
    assert len(adapted) == 2 * 2 * 2  # queries and values, language model and expert, layers
    trained = {"graft": 4 * 32 + 32, "wrapped": 16 * 32 + 32, "lora": 2 * sum(adapted), "native": 0}
    assert record["trained"] == trained[kind]
    assert np.isfinite(record["scores"]["mse"]).all()


def test_training_changes_the_projector_and_lowers_the_loss(backbone, samples, make_job):
    record = run_cell(backbone, samples, make_job("graft", steps=60))
    assert record["losses"][-1] < record["losses"][0]
