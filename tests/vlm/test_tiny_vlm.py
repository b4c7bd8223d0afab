"""The tiny VLM: which state depends on what, its words, its frozen encoder and its configuration."""

import draccus
import pytest
import torch

from fovea.encoders import create_encoder
from fovea.errors import FoveaError
from fovea.tokens import Tokens
from fovea.vlm import VLMConfig, create_vlm

SENTENCES = ["pick up the milk", "open the top drawer of the cabinet", "push the plate"]


@pytest.fixture(scope="module")
def encoder():
    return create_encoder("tiny")


def build(encoder, **changes):
    torch.manual_seed(0)
    return create_vlm(VLMConfig.toy(**changes), encoder=encoder).eval()


def features(batch: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 512, 128, generator=generator)


@pytest.mark.parametrize("words", ["encoder", "learned"])
@pytest.mark.parametrize("attention", ["causal", "prefix"])
@torch.no_grad()
def test_states_of_a_sample_do_not_depend_on_the_rest_of_the_batch(encoder, attention, words):
    vlm = build(encoder, attention=attention, words=words)
    together = vlm(features(), SENTENCES)
    assert together.vision.shape == (2, 3, 32, 32)
    assert together.queries.shape == (2, 3, 4, 32)
    assert together.features.shape == (3, 32, 128)
    for row, sentence in enumerate(SENTENCES):
        alone = vlm(features()[row : row + 1], [sentence])
        assert torch.allclose(alone.vision[:, 0], together.vision[:, row], atol=1e-5)
        assert torch.allclose(alone.queries[:, 0], together.queries[:, row], atol=1e-5)
    turned = vlm(features().flip(0), SENTENCES[::-1])
    assert torch.allclose(turned.queries.flip(1), together.queries, atol=1e-5)


@torch.no_grad()
def test_patches_hear_the_instruction_in_prefix_mode_only(encoder):
    for attention, hears in (("prefix", True), ("causal", False)):
        vlm = build(encoder, attention=attention)
        one = vlm(features(1), ["pick up the milk"])
        other = vlm(features(1), ["pick up the butter"])
        assert torch.equal(one.vision[-1], other.vision[-1]) is not hears
        assert not torch.allclose(one.queries[-1], other.queries[-1], atol=1e-4)


@torch.no_grad()
def test_a_missing_camera_is_never_looked_at(encoder):
    vlm = build(encoder)
    there = torch.ones(3, 512, dtype=torch.bool)
    there[1, 256:] = False
    patches, other = features(), features(seed=1)
    other[~there] = torch.nan
    other[there] = patches[there]
    one, two = vlm(patches, SENTENCES, there), vlm(Tokens(other, there), SENTENCES)
    assert one.mask.shape == (3, 32)
    assert one.mask.sum(1).tolist() == [32, 16, 32]
    assert torch.equal(one.queries, two.queries)
    assert torch.equal(one.vision[:, :, :16], two.vision[:, :, :16])
    assert not torch.allclose(one.queries[:, 1], vlm(patches, SENTENCES).queries[:, 1], atol=1e-4)
    assert vlm(patches, SENTENCES, torch.ones_like(there)).mask is None


@torch.no_grad()
def test_cameras_and_places_are_told_apart(encoder):
    vlm = build(encoder, patch_pool=8)  # 2 x 2 patches a camera
    same = torch.ones(1, 512, 128) * torch.linspace(-1, 1, 128)
    states = vlm(same, ["pick up the milk"]).vision[0, 0]
    distance = torch.cdist(states, states) + torch.eye(8) * 9
    assert distance.min() > 1e-2


@torch.no_grad()
def test_pooling_averages_squares_of_patches(encoder):
    vlm = build(encoder, patch_pool=8)
    patches = features(1)
    pooled = vlm(patches, ["push it"]).features[0]
    wrist = patches[0, 256:].view(16, 16, 128)
    assert torch.allclose(pooled[4 + 1], wrist[:8, 8:].mean((0, 1)), atol=1e-5)  # second camera, top right


@torch.no_grad()
def test_pictures_become_the_features_that_a_cache_holds(encoder):
    vlm = build(encoder)
    pictures = torch.randint(0, 256, (2, 2, 3, 128, 128), dtype=torch.uint8)
    encoded = vlm.encode_images(pictures)
    assert encoded.shape == (2, 512, 128)
    assert torch.allclose(encoded[1, 256:], encoder.encode_image(pictures[1, 1:]).values[0], atol=1e-5)
    half = vlm(encoded.half(), SENTENCES[:2])
    assert torch.allclose(half.queries, vlm(encoded, SENTENCES[:2]).queries, atol=1e-2)


@torch.no_grad()
def test_pointing_marks_the_patches_that_the_encoder_finds_for_the_sentence(encoder):
    vlm = build(encoder, pointing=True, patch_pool=1)
    patches = features(2)
    shown = encoder.embed_text(["pick up the milk"])[0]
    patches[0, 300] = shown * patches[0].norm(dim=-1).max()
    match = vlm.match(patches, SENTENCES[:2])
    assert match.shape == (2, 512)
    assert int(match[0].argmax()) == 300
    assert torch.allclose(match.mean(1), torch.zeros(2), atol=1e-5)
    together, alone = vlm(patches, SENTENCES[:2]), vlm(patches[1:], SENTENCES[1:2])
    assert torch.allclose(together.queries[:, 1], alone.queries[:, 0], atol=1e-5)
    plain = build(encoder, patch_pool=1)
    assert set(vlm.state_dict()) - set(plain.state_dict()) == {"pointing"}


@torch.no_grad()
def test_a_missing_camera_takes_nothing_from_pointing(encoder):
    vlm = build(encoder, pointing=True, patch_pool=1)
    patches = features(2)
    mask = torch.ones(patches.shape[:2], dtype=torch.bool)
    mask[0, 256:] = False
    match = vlm.match(patches * mask[..., None], SENTENCES[:2], mask)
    alone = vlm.match(patches[:1, :256], SENTENCES[:1])
    assert torch.allclose(match[0, :256], alone[0], atol=1e-4)
    assert not match[0, 256:].any()
    assert torch.allclose(match[1], vlm.match(patches[1:], SENTENCES[1:2])[0], atol=1e-4)


def test_everything_learns_but_the_encoder(encoder):
    vlm = build(encoder)
    states = vlm(features(), SENTENCES)
    (states.vision[-1].square().mean() + states.queries.square().mean()).backward()
    assert [name for name, parameter in vlm.named_parameters() if parameter.grad is None] == []
    assert not any(name.startswith(("vision", "encoder")) for name in vlm.state_dict())
    assert all(parameter.grad is None for parameter in vlm.vision.parameters())
    frozen = create_vlm(VLMConfig.toy(trainable="queries"), encoder=encoder)
    assert [name for name, p in frozen.named_parameters() if p.requires_grad] == ["action_queries"]
    nothing = create_vlm(VLMConfig.toy(trainable="nothing"), encoder=encoder)
    assert not any(parameter.requires_grad for parameter in nothing.parameters())


@torch.no_grad()
def test_a_reloaded_model_needs_no_encoder_until_it_reads_and_then_the_same_one(encoder):
    vlm = build(encoder)
    config = draccus.decode(VLMConfig, draccus.encode(vlm.config))
    assert config == vlm.config
    again = create_vlm(config, load_weights=False).eval()
    again.load_state_dict(vlm.state_dict(), strict=True)
    assert torch.equal(again(features(), SENTENCES).queries, vlm(features(), SENTENCES).queries)
    config.encoder_identity = "0" * 64
    with pytest.raises(FoveaError, match="trained with"):
        create_vlm(config, encoder=encoder)
    config.encoder_identity, config.feature_width = None, 64
    with pytest.raises(FoveaError, match="leave encoder_grid and feature_width unset"):
        create_vlm(config, encoder=encoder)


def test_an_encoder_that_only_sees_takes_learned_words():
    config = VLMConfig.toy(encoder="timm/test_vit@64", weights="random", patch_pool=1)
    with pytest.raises(FoveaError, match="words=learned"):
        create_vlm(config)
    vlm = create_vlm(
        VLMConfig.toy(encoder="timm/test_vit@64", weights="random", words="learned", patch_pool=2)
    )
    pictures = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    assert vlm(vlm.encode_images(pictures), ["pick up the milk"]).vision.shape == (2, 1, 8, 32)


def test_a_model_on_the_meta_device_counts_without_weights():
    with torch.device("meta"):
        vlm = create_vlm(VLMConfig.toy(), load_weights=False)
    assert {parameter.device.type for parameter in vlm.parameters()} == {"meta"}
    real = create_vlm(VLMConfig.toy())
    assert sum(p.numel() for p in vlm.parameters()) == sum(p.numel() for p in real.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "huge"}, "kind among tiny, prismatic"),
        ({"attention": "full"}, "attention among causal, prefix"),
        ({"queries": 0}, "queries > 0"),
        ({"layers": -1}, "layers > 0"),
        ({"heads": 5}, "heads to divide width"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"compat": True}, "compat=false"),
        ({"trainable": "lora"}, "nothing pretrained"),
        ({"checkpoint": "x.pt"}, "no checkpoint"),
        ({"encoder_grid": (6, 6), "patch_pool": 4}, "patch_pool to divide"),
        ({"width": 30, "heads": 3, "kv_heads": 3}, "4 divides"),
        ({"pointing": True, "attention": "causal"}, "pointing=true with"),
        ({"pointing": True, "kind": "prismatic", "weights": "random"}, "pointing=true with"),
        ({"feature_width": 0}, "feature_width > 0"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(FoveaError, match=words):
        VLMConfig.toy(**changes)


def test_what_is_left_empty_is_that_of_the_kind():
    assert VLMConfig() == VLMConfig.tiny()
    assert VLMConfig(kind="prismatic") == VLMConfig.full()
    full = VLMConfig(kind="prismatic", layers=12)
    assert (full.layers, full.width, full.encoder, full.attention) == (12, 896, "dinov2+siglip", "causal")
    assert draccus.decode(VLMConfig, draccus.encode(full)) == full


def test_a_preset_that_nobody_knows_is_refused():
    with pytest.raises(FoveaError, match="tiny, full, toy, toy_full"):
        VLMConfig.preset("medium")


def test_inputs_that_do_not_fit_are_refused(encoder):
    vlm = build(encoder)
    cases = [
        ((features()[:, :256], SENTENCES), "512, 128"),
        ((features(), SENTENCES[:2]), "expected 3 instructions"),
        ((features(), "pick up the milk"), "list of sentences"),
        ((features(1), ["..."]), "word"),
        ((features(1).int(), ["push it"]), "floating-point"),
        ((features(1), ["push it"], torch.ones(1, 512)), "bool mask"),
    ]
    for arguments, words in cases:
        with pytest.raises(FoveaError, match=words):
            vlm(*arguments)
    with pytest.raises(FoveaError, match=r"\(B, 2, 3, H, W\)"):
        vlm.encode_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
