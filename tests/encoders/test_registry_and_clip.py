"""Encoders by name: what is unknown or missing is named; CLIP from a local file is the CLIP that was saved."""

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from fovea.encoders import clip as clip_module
from fovea.encoders import create_encoder, list_encoders
from fovea.encoders.clip import ClipEncoder, attend
from fovea.errors import FoveaError

TOY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A random CLIP in a file, and open_clip knowing its architecture."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**TOY, quick_gelu=True)
    save_file(model.state_dict(), tmp_path / "toy.safetensors")
    known = open_clip.get_model_config

    def config(name: str):
        return {"ViT-toy": TOY, "ViT-toy-quickgelu": {**TOY, "quick_gelu": True}}.get(name, known(name))

    monkeypatch.setattr(open_clip, "get_model_config", config)
    return model.eval(), tmp_path / "toy.safetensors"


def test_clip_from_a_file_gives_clip_s_own_embeddings(saved):
    model, path = saved
    encoder = create_encoder(f"ViT-toy-quickgelu/{path}")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    sentences = ["pick up the milk", "open it"]
    with torch.no_grad():
        expected = model.encode_text(open_clip.tokenize(sentences), normalize=True)
    assert torch.allclose(encoder.embed_text(sentences), expected, atol=1e-5)
    words = encoder.encode_text(sentences)
    assert words.mask.sum(1).tolist() == [4, 2]
    pictures = torch.randint(0, 256, (2, 3, 48, 40), dtype=torch.uint8)
    tokens = encoder.encode_image(pictures)
    assert tokens.values.shape == (2, 16, 32)
    assert torch.allclose(tokens.values.norm(dim=-1), torch.ones(2, 16), atol=1e-5)
    with pytest.raises(FoveaError, match="uint8"):
        encoder.encode_image(pictures.float())
    with pytest.raises(FoveaError, match="list of sentences"):
        encoder.encode_text("pick up the milk")


def test_the_tap_out_is_clip_s_own_last_layer(saved):
    model, path = saved
    encoder = create_encoder(f"ViT-toy-quickgelu/{path}", tap="out")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        model.visual.output_tokens = True
        _, tokens = model.visual(pixels)
        expected = torch.nn.functional.normalize(tokens @ model.visual.proj, dim=-1)
        assert torch.allclose(encoder.patches(pixels), expected, atol=1e-5)


def test_attention_of_the_tap_is_torch_s_own():
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.randn(2, 5, 32)
    assert torch.allclose(attend(attention, x, query_query=False), attention(x, x, x)[0], atol=1e-6)
    assert not torch.allclose(attend(attention, x, query_query=True), attention(x, x, x)[0], atol=1e-3)


def test_identity_tells_weights_taps_and_activations_apart(saved):
    _, path = saved
    first = create_encoder(f"ViT-toy-quickgelu/{path}")
    assert create_encoder(f"ViT-toy-quickgelu/{path}").identity == first.identity
    others = [
        create_encoder(f"ViT-toy-quickgelu/{path}", tap="attn_qq"),
        create_encoder(f"ViT-toy/{path}"),  # no QuickGELU
        ClipEncoder(open_clip.CLIP(**TOY, quick_gelu=True), name="other"),
    ]
    assert len({encoder.identity for encoder in [first, *others]}) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiney", "did you mean 'tiny'"),
        ("ViT-B-33/openai", "did you mean 'ViT-B-32'"),
        ("ViT-B-32/opnai", "did you mean 'openai'"),
        ("ViT-B-32//no/such/file", "weights file after //"),
        ("ViT-B-16-SigLIP/webli", "plain vision transformer"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(name, words):
    with pytest.raises(FoveaError, match=words):
        create_encoder(name)
    assert {"tiny", "ViT-B-32/openai"} <= set(list_encoders())


def test_a_file_that_does_not_fit_or_is_a_pickle_is_refused(saved, tmp_path):
    _, path = saved
    with pytest.raises(FoveaError, match="does not hold the weights of ViT-B-32"):
        create_encoder(f"ViT-B-32/{path}")
    pickled = tmp_path / "weights.pt"
    pickled.write_bytes(b"")
    with pytest.raises(FoveaError, match="safetensors"):
        create_encoder(f"ViT-toy/{pickled}")
    with pytest.raises(FoveaError, match="attn_qk, attn_qq, out"):
        create_encoder(f"ViT-toy/{path}", tap="middle")


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def offline(repository, file):
        raise OSError("no network")

    monkeypatch.setattr(clip_module, "hf_hub_download", offline)
    with pytest.raises(FoveaError) as caught:
        create_encoder("ViT-B-32/openai")
    for words in (
        "open_clip_model.safetensors",
        "huggingface.co/timm/vit_base_patch32_clip_224.openai",
        "ViT-B-32-quickgelu//",
    ):
        assert words in str(caught.value)
