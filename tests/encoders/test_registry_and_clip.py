"""Encoders by name: what is unknown or missing is named; CLIP from a local file is the CLIP that was saved."""

import open_clip
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file

from fovea.encoders import clip_files, create_encoder, list_encoders
from fovea.encoders.clip import ClipEncoder
from fovea.encoders.clip_vision import attend
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


@torch.no_grad()
def test_the_tap_attn_qk_is_what_clip_s_last_attention_adds(saved):
    model, path = saved
    pixels, caught = torch.randn(2, 3, 32, 32), []
    visual = model.visual
    visual.transformer.resblocks[-1].attn.register_forward_hook(lambda *call: caught.append(call[-1][0]))
    visual(pixels)
    expected = torch.nn.functional.normalize(visual.ln_post(caught[0][:, 1:]) @ visual.proj, dim=-1)
    encoder = create_encoder(f"ViT-toy-quickgelu/{path}", tap="attn_qk")
    assert torch.allclose(encoder.patches(pixels), expected, atol=1e-5)


@torch.no_grad()
def test_the_tap_attn_qq_compares_queries_with_queries(saved):
    model, path = saved
    pixels = torch.randn(2, 3, 32, 32)
    expected = create_encoder(f"ViT-toy-quickgelu/{path}", tap="attn_qq").patches(pixels)
    encoder = ClipEncoder(model, name="toy", tap="attn_qk")
    assert not torch.allclose(encoder.patches(pixels), expected, atol=1e-4)
    attention = model.visual.transformer.resblocks[-1].attn
    for part in (attention.in_proj_weight, attention.in_proj_bias):
        part[64:128] = part[:64]  # keys become queries
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
        ("RN50/openai", "vision transformer over patches"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(name, words):
    with pytest.raises(FoveaError, match=words):
        create_encoder(name)
    assert {"tiny", "ViT-B-32/openai"} <= set(list_encoders())


def test_a_file_that_does_not_fit_or_is_more_than_tensors_is_refused(saved, tmp_path):
    _, path = saved
    with pytest.raises(FoveaError, match="does not hold the weights of ViT-B-32"):
        create_encoder(f"ViT-B-32/{path}")
    pickled = tmp_path / "weights.pt"
    pickled.write_bytes(b"")
    with pytest.raises(FoveaError, match="tensors and nothing else"):
        create_encoder(f"ViT-toy/{pickled}")
    torch.save({"model": torch.nn.Linear(2, 2)}, pickled)  # a pickled object, not its tensors
    with pytest.raises(FoveaError, match="tensors and nothing else"):
        create_encoder(f"ViT-toy/{pickled}")
    pickled.rename(tmp_path / "weights.tar")
    with pytest.raises(FoveaError, match=r"\.safetensors, \.bin"):
        create_encoder(f"ViT-toy/{tmp_path / 'weights.tar'}")
    with pytest.raises(FoveaError, match="attn_qk, attn_qq, out"):
        create_encoder(f"ViT-toy/{path}", tap="middle")


def test_weights_come_from_folders_and_training_checkpoints_too(saved, tmp_path):
    model, path = saved
    encoder = create_encoder(f"ViT-toy-quickgelu/{path}")
    folder = tmp_path / "hub"
    folder.mkdir()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}},
        folder / "open_clip_pytorch_model.bin",
    )
    assert create_encoder(f"ViT-toy-quickgelu/{folder}").identity == encoder.identity
    # alone, it is read as OpenAI builds them: heads of width 64
    assert create_encoder(f"clip:{path}").identity != encoder.identity
    save_file(
        model.state_dict(),
        tmp_path / "own.safetensors",
        {"clip": '{"vision_heads": 2, "transformer_heads": 2}'},
    )
    alone = create_encoder(f"clip:{tmp_path / 'own.safetensors'}")
    assert alone.identity == encoder.identity
    with torch.no_grad():
        sentences = ["pick up the milk"]
        words, expected = alone.encode_text(sentences), encoder.encode_text(sentences)
    assert torch.equal(words.values, expected.values)
    assert words.mask.sum() == 4
    with pytest.raises(FoveaError, match="clip:<file>"):
        create_encoder("clip:nowhere.safetensors")
    save_file({"foo": torch.zeros(1)}, tmp_path / "foo.safetensors")
    with pytest.raises(FoveaError, match=r"visual\.conv1\.weight is missing"):
        create_encoder(f"clip:{tmp_path / 'foo.safetensors'}")


@pytest.mark.parametrize("error", [OSError, LocalEntryNotFoundError])  # no network; told to stay offline
def test_weights_that_cannot_be_downloaded_are_named(monkeypatch, error):
    def offline(repository, file):
        raise error("no network")

    monkeypatch.setattr(clip_files, "hf_hub_download", offline)
    with pytest.raises(FoveaError) as caught:
        create_encoder("ViT-B-32/openai")
    for words in (
        "open_clip_model.safetensors",
        "huggingface.co/timm/vit_base_patch32_clip_224.openai",
        "ViT-B-32/openai//",
    ):
        assert words in str(caught.value)


def test_a_file_whose_pixels_nobody_knows_must_say_of_what_tag_it_is(saved):
    _, path = saved
    with pytest.raises(FoveaError, match=r"ViT-L-14/<tag>//.*laion2b_s32b_b82k"):
        create_encoder(f"ViT-L-14/{path}")
    with pytest.raises(FoveaError, match="tag of ViT-L-14"):
        create_encoder(f"ViT-L-14/opnai/{path}")
    tagged = create_encoder(f"ViT-B-32/openai/{path}", random_weights=True)
    assert tagged.mean == create_encoder("ViT-B-32/openai", random_weights=True).mean
    laion = create_encoder(f"ViT-L-14/laion2b_s32b_b82k/{path}", random_weights=True)
    assert laion.mean == (0.5, 0.5, 0.5)


def test_a_hub_repository_without_safetensors_gives_its_other_file(monkeypatch, saved):
    _, path = saved
    asked = []

    def download(repository, file):
        asked.append(f"{repository}/{file}")
        if file.endswith(".safetensors"):
            raise EntryNotFoundError("404")
        return str(path)

    monkeypatch.setattr(clip_files, "hf_hub_download", download)
    entry = open_clip.pretrained.get_pretrained_cfg("ViT-B-16", "dfn2b")
    assert clip_files.hub_file("ViT-B-16/dfn2b", "ViT-B-16", "dfn2b", entry) == path
    assert asked == [
        "apple/DFN2B-CLIP-ViT-B-16/open_clip_model.safetensors",
        "apple/DFN2B-CLIP-ViT-B-16/open_clip_pytorch_model.bin",
    ]
