"""Vision that is trained with the policy: from pictures, with gradients, in the checkpoint, and nobody else's."""

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from toy_batches import frames, windows

from fovea.encoders import clip as clip_module
from fovea.encoders.clip import ClipEncoder
from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla import features_ef_vla
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy

CAMERAS = ("image", "image2")
TRAINED = ("finetune", "scratch")


def pictures(policy: EFVLAPolicy, count: int) -> dict:
    """Windows with pictures in place of cached patches."""
    batch = windows(policy, count)
    generator = torch.Generator().manual_seed(5)
    for name in CAMERAS:
        del batch[f"observation.features.{name}"]
        shape = (count, policy.config.n_obs_steps, 3, 32, 32)
        batch[f"observation.images.{name}"] = torch.randint(
            0, 256, shape, dtype=torch.uint8, generator=generator
        )
    return batch


@pytest.mark.parametrize("vision", TRAINED)
def test_everything_that_is_to_be_trained_gets_a_gradient_and_learns(make_policy, encoder, vision):
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    policy = make_policy(vision=vision, proprio_noise=0.0).train()
    assert policy.config.uses_pixels
    batch = pictures(policy, 2)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=3e-3)
    losses = []
    for step in range(15):
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            lacking = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
            assert lacking == []
            assert any(
                n.startswith("vision.") and p.grad.abs().sum() > 0
                for n, p in policy.named_parameters()
                if p.grad is not None
            )
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(
        torch.equal(value, before[key]) for key, value in encoder.state_dict().items()
    )  # nobody else's


@pytest.mark.parametrize("vision", TRAINED)
def test_cached_features_are_refused(make_policy, vision):
    policy = make_policy(vision=vision)
    with pytest.raises(FoveaError, match=f"got cached features: with vision={vision}"):
        policy(windows(policy, 2) | pictures(policy, 2))


@pytest.mark.parametrize("vision", TRAINED)
def test_what_was_trained_is_in_the_checkpoint_and_comes_back(
    make_policy, encoder, tmp_path, monkeypatch, vision
):
    policy = make_policy(vision=vision, gripper_loss="l1").eval()
    with torch.no_grad():
        for parameter in policy.vision.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    policy.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {key.partition(".")[0] for key in saved} == {"model", "vision"}
    monkeypatch.setattr(features_ef_vla, "create_encoder", lambda name, tap=None: encoder)
    loaded = EFVLAPolicy.from_pretrained(tmp_path)
    assert torch.equal(loaded.select_action(frames(2)), policy.select_action(frames(2)))
    assert (make_policy(vision="frozen").vision is None) == (loaded.vision is not None)


def test_words_are_trained_too_where_the_encoder_is_finetuned(make_policy):
    policy = make_policy(vision="finetune").train()
    policy(pictures(policy, 2))[0].backward()
    names = {
        name for name, p in policy.named_parameters() if p.grad is not None and name.startswith("vision.text")
    }
    assert any("blocks" in name for name in names)


@pytest.mark.parametrize("vision", ["frozen", *TRAINED])
def test_words_are_encoded_once_an_episode(make_policy, monkeypatch, vision):
    policy = make_policy(vision=vision).eval()
    asked: list[list[str]] = []
    encode = policy.encoder.encode_text
    monkeypatch.setattr(policy.encoder, "encode_text", lambda x: asked.append(list(x)) or encode(x))
    for step in range(4):
        policy.select_action(frames(3, seed=step))
    assert len(asked) == 1
    policy.reset([1])
    policy.select_action(frames(3, seed=9))
    assert len(asked) == (2 if vision == "finetune" else 1)
    assert asked[-1] == frames(3)["task"][1:2] or vision != "finetune"


def test_a_finetuned_encoder_s_words_follow_its_weights(make_policy):
    policy = make_policy(vision="finetune", gripper_loss="l1").eval()
    first = policy.select_action(frames(1))
    with torch.no_grad():
        policy.vision.text.project.weight.mul_(-1)
    policy.reset()
    assert not torch.allclose(policy.select_action(frames(1)), first, atol=1e-4)


def test_a_finetuned_clip_loads_without_its_first_weights(tmp_path, monkeypatch):
    """The checkpoint has them all: nothing is downloaded."""
    sizes = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    known = open_clip.get_model_config
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: sizes if name == "toy" else known(name))
    monkeypatch.setattr(clip_module, "get_pretrained_cfg", lambda model, tag: {"hf_hub": "nobody/nothing/"})
    torch.manual_seed(0)
    config = EFVLAConfig.tiny(encoder="toy/tag", vision="finetune", gripper_loss="l1", temperature=None)
    assert config.temperature == 0.07
    policy = EFVLAPolicy(config, encoder=ClipEncoder(open_clip.CLIP(**sizes), name="toy/tag").freeze()).eval()
    frozen = {name for name, parameter in policy.vision.named_parameters() if not parameter.requires_grad}
    assert "model.logit_scale" in frozen
    assert any("resblocks.1.mlp" in name for name in frozen)  # behind X_attn
    assert not any("resblocks.0" in name for name in frozen)
    policy.save_pretrained(tmp_path)
    loaded = EFVLAPolicy.from_pretrained(tmp_path)
    assert torch.equal(loaded.select_action(frames(2)), policy.select_action(frames(2)))


def test_a_scratch_transformer_has_the_paper_s_size(make_policy):
    config = EFVLAConfig.preset("ef_vla_l14", vision="scratch")
    assert config.encoder_grid == (14, 14)
    with torch.device("meta"):
        from fovea.policies.ef_vla.vision_ef_vla import ScratchVision

        vision = ScratchVision(config)
    assert len(vision.trunk.blocks) == 6
    assert vision.project.weight.shape == (768, 192)
    assert sum(p.numel() for p in vision.trunk.parameters()) == 2_854_848
    toy = make_policy(vision="scratch")
    assert toy.config.encoder_grid == (4, 4)
    other = make_policy(vision="scratch", image_size=64)
    assert other.config.encoder_grid == (8, 8)
    with pytest.raises(FoveaError, match="divides image_size = 30"):
        EFVLAConfig.tiny(vision="scratch", image_size=30)
    with pytest.raises(FoveaError, match="cannot be trained"):
        EFVLAConfig.tiny(vision="scratch", encoder_backend="openvino-int8")


def test_maps_are_there_with_trained_vision(make_policy):
    policy = make_policy(vision="scratch").eval()
    maps = policy.attention(frames(2))
    assert maps.weights.shape[-2:] == (4, 4)
    assert torch.allclose(maps.weights.sum((-1, -2)), torch.ones(maps.weights.shape[:-2]), atol=1e-5)


def test_a_batch_may_carry_token_ids_where_the_encoder_knows_them(make_policy):
    policy = make_policy().eval()
    with pytest.raises(FoveaError, match=r"got token ids: observation\.language\.tokens"):
        policy.select_action(frames(1) | {"observation.language.tokens": torch.ones(1, 5, dtype=torch.long)})
    assert isinstance(policy.encoder, TinyEncoder)
    assert TinyConfig.tiny().max_words == policy.encoder.max_words
