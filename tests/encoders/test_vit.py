"""Encoders that only see: timm's own numbers, both halves of the fused one, names, sizes and missing weights."""

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file

from fovea.encoders import create_encoder, create_vision_encoder, files, list_vision_encoders
from fovea.encoders.fused import FusedEncoder
from fovea.encoders.vit import VitEncoder, build_vit
from fovea.errors import FoveaError

PICTURES = torch.randint(
    0, 256, (2, 3, 80, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.fixture
def saved(tmp_path):
    """A random ViT of timm with a register token, saved at 160 px and with a classifier, as timm's hub files are."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit2", pretrained=False, num_classes=7).eval()
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    return model, path


@torch.no_grad()
def test_the_second_to_last_block_is_timm_s_own(saved):
    model, path = saved
    encoder = create_vision_encoder(f"timm/test_vit2//{path}")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    pixels = encoder.preprocess(PICTURES)
    (expected,) = model.get_intermediate_layers(pixels, n={len(model.blocks) - 2})
    tokens = encoder.encode_image(PICTURES)
    assert tokens.values.shape == (2, 100, 64)
    assert tokens.mask.all()
    assert torch.allclose(tokens.values, expected, atol=1e-6)
    last = create_vision_encoder(f"timm/test_vit2//{path}", tap="out").encode_image(PICTURES).values
    assert torch.allclose(last, model.forward_features(pixels)[:, model.num_prefix_tokens :], atol=1e-5)


@torch.no_grad()
def test_pixels_are_scaled_with_the_model_s_own_mean_and_deviation(saved):
    encoder = create_vision_encoder(f"timm/test_vit2@32//{saved[1]}")
    config = timm.get_pretrained_cfg("test_vit2")
    white = encoder.preprocess(torch.full((1, 3, 48, 32), 255, dtype=torch.uint8))
    expected = (1 - torch.tensor(config.mean)) / torch.tensor(config.std)
    assert white.shape == (1, 3, 32, 32)
    assert torch.allclose(white.mean((0, 2, 3)), expected, atol=1e-5)


@torch.no_grad()
def test_positions_of_another_size_are_resampled_as_timm_does(saved):
    model, path = saved
    encoder = create_vision_encoder(f"timm/test_vit2@96//{path}")
    assert (encoder.grid, encoder.image_size) == ((6, 6), 96)
    model.set_input_size(img_size=96)
    assert torch.allclose(encoder.model.pos_embed, model.pos_embed, atol=1e-4)


@torch.no_grad()
def test_fused_channels_are_those_of_the_parts(saved):
    _, path = saved
    torch.manual_seed(0)
    other = build_vit("timm/test_vit", "test_vit", random_weights=True).freeze()
    one = create_vision_encoder(f"timm/test_vit2//{path}")
    fused = FusedEncoder([one, other], name="both")
    both = fused.encode_image(PICTURES).values
    assert both.shape == (2, 100, 128)
    assert torch.equal(both[..., :64], one.encode_image(PICTURES).values)
    assert torch.equal(both[..., 64:], other.encode_image(PICTURES).values)
    assert fused.preprocess(PICTURES).shape == (2, 6, 160, 160)
    assert fused.identity != one.identity
    named = create_vision_encoder(f"timm/test_vit2//{path}+timm/test_vit2@160//{path}")
    assert (named.width, named.grid) == (128, (10, 10))


def test_dinov2_and_siglip_fuse_to_256_patches_of_2176_numbers():
    with torch.device("meta"):
        encoder = create_vision_encoder("dinov2+siglip", random_weights=True)
    assert isinstance(encoder, FusedEncoder)
    assert (encoder.width, encoder.grid, encoder.image_size) == (2176, (16, 16), 224)
    dino, siglip = encoder.parts
    assert (dino.width, dino.mean, dino.model.num_prefix_tokens) == (1024, (0.485, 0.456, 0.406), 5)
    assert (siglip.width, siglip.std, siglip.model.num_prefix_tokens) == (1152, (0.5, 0.5, 0.5), 0)


@pytest.mark.parametrize(
    "name", ["timm/test_vit3", "timm/test_vit@64", "timm/deit_tiny_distilled_patch16_224"]
)
@torch.no_grad()
def test_any_plain_vision_transformer_keeps_the_contract(name):
    encoder = create_vision_encoder(name, random_weights=True)
    assert isinstance(encoder, VitEncoder)
    tokens = encoder.encode_image(PICTURES)
    assert tokens.values.shape == (2, encoder.grid[0] * encoder.grid[1], encoder.width)
    assert encoder.name == name
    assert len(encoder.identity) == 64
    with pytest.raises(FoveaError, match="uint8"):
        encoder.encode_image(PICTURES.float())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dinov3", "did you mean 'dinov2'"),
        ("timm/vit_tny_patch16_224", "did you mean 'vit_tiny_patch16_224'"),
        ("timm/vit_tiny_patch16_224.in21k", "tag of vit_tiny_patch16_224"),
        ("timm/a@b@c", "expected timm/<model>"),
        ("timm/test_vit//no/such/file", "weights file after //"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(name, words):
    with pytest.raises(FoveaError, match=words):
        create_vision_encoder(name)
    assert {"dinov2", "siglip", "dinov2+siglip", "tiny"} <= set(list_vision_encoders())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/resnet18", "plain vision transformer"),
        ("timm/test_vit@100", "ask for @96"),
        ("timm/vit_small_patch14_dinov2@150", "ask for @140"),
        ("timm/vit_tiny_patch16_224@8", "of 8 px|ask for @16"),
        ("timm/vit_tiny_patch16_224@0", "of 0 px|ask for @16"),
        ("timm/test_vit@64+timm/test_vit2@96", "one picture size"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused(name, words):
    with pytest.raises(FoveaError, match=words):
        create_vision_encoder(name, random_weights=True)


def test_networks_that_share_a_file_but_not_their_activation_are_two_encoders(saved):
    _, path = saved
    plain = create_vision_encoder(f"timm/test_vit2//{path}")
    quick = VitEncoder(copy.deepcopy(plain.model), name=plain.name, mean=plain.mean, std=plain.std)
    for block in quick.model.blocks:
        block.mlp.act = timm.layers.QuickGELU()
    assert quick.freeze().identity != plain.identity


def test_an_encoder_without_words_is_no_dual_encoder():
    for name in ("dinov2", "siglip//x", "dinov2+siglip", "timm/test_vit"):
        with pytest.raises(FoveaError, match="only sees"):
            create_encoder(name)


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def offline(repository, file):
        raise OSError("no network")

    monkeypatch.setattr("fovea.encoders.vit.fetch", lambda *words: files.fetch(*words, offline))
    with pytest.raises(FoveaError) as caught:
        create_vision_encoder("siglip")
    for words in (
        "model.safetensors",
        "huggingface.co/timm/vit_so400m_patch14_siglip_224.webli",  # not SigLIP 2, timm's default today
        "timm/vit_so400m_patch14_siglip_224.webli@224//<path of model.safetensors>",
    ):
        assert words in str(caught.value)


def test_a_file_that_does_not_fit_is_refused(saved, tmp_path):
    _, path = saved
    with pytest.raises(FoveaError, match="does not hold the weights of timm's test_vit"):
        create_vision_encoder(f"timm/test_vit//{path}")
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"nothing")
    with pytest.raises(FoveaError, match="expected tensors and nothing else"):
        create_vision_encoder(f"timm/test_vit//{empty}")
    with pytest.raises(FoveaError, match=r"found none at .*missing"):
        create_vision_encoder(f"timm/test_vit//{tmp_path}/missing")


def test_a_folder_or_a_pickle_of_tensors_will_do_as_well(saved, tmp_path):
    model, path = saved
    folder = create_vision_encoder(f"timm/test_vit2//{path.parent}")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pt")
    pickled = create_vision_encoder(f"timm/test_vit2//{tmp_path}/weights.pt")
    assert folder.identity == pickled.identity
