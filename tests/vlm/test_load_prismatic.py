"""Public checkpoints: names as they are on the hub, strictly loaded, and written back."""

import json

import pytest
import torch
from safetensors.torch import save_file

from fovea.errors import FoveaError
from fovea.pipelines.policies import encoder_of
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.vlm import VLMConfig, create_vlm
from fovea.vlm.load_prismatic import load_checkpoint, our_names, public_names, read_checkpoint

# Names as the public code writes them (OpenHelix-Team/VLA-Adapter, TRI-ML/prismatic-vlms), one of every kind.
HF = {
    "vision_backbone.featurizer.pos_embed": "vision_encoder.parts.0.model.pos_embed",
    "vision_backbone.featurizer.blocks.0.ls1.scale_factor": "vision_encoder.parts.0.model.blocks.0.ls1.gamma",
    "vision_backbone.fused_featurizer.blocks.1.norm1.bias": "vision_encoder.parts.1.model.blocks.1.norm1.bias",
    "projector.fc1.weight": "projector.fc1.weight",
    "projector.fc3.bias": "projector.fc3.bias",
    "language_model.model.layers.1.self_attn.q_proj.bias": "language_model.model.layers.1.self_attn.q_proj.bias",
    "language_model.lm_head.weight": "language_model.lm_head.weight",
    "action_queries.weight": "action_queries",
}
PRISMATIC = {
    "vision_backbone.dino_featurizer.blocks.0.ls1.gamma": "vision_encoder.parts.0.model.blocks.0.ls1.gamma",
    "vision_backbone.siglip_featurizer.patch_embed.proj.weight": "vision_encoder.parts.1.model.patch_embed.proj.weight",
    "projector.projector.0.weight": "projector.fc1.weight",
    "projector.projector.2.bias": "projector.fc2.bias",
    "projector.projector.4.weight": "projector.fc3.weight",
    "llm_backbone.llm.model.embed_tokens.weight": "language_model.model.embed_tokens.weight",
    "llm_backbone.llm.model.layers.0.mlp.gate_proj.weight": "language_model.model.layers.0.mlp.gate_proj.weight",
}


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return create_vlm(VLMConfig.preset("toy_full", trainable="nothing")).eval()


@pytest.fixture
def hf_state(source):
    state = public_names(source.state_dict(), "hf")
    state.pop("language_model.lm_head.weight")  # tied: saving drops it
    return {key: value.clone() for key, value in state.items()}


@pytest.fixture
def prismatic_state(source):
    """{"vision_backbone": {...}, "projector": {...}, "llm_backbone": {...}}; a Prismatic VLM has no action queries."""
    own = {key: value.clone() for key, value in source.state_dict().items() if key != "action_queries"}
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in public_names(own, "prismatic").items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def build(path, **changes):
    return create_vlm(VLMConfig.preset("toy_full", checkpoint=str(path), **changes)).eval()


@torch.no_grad()
def assert_same(vlm, source, queries=True):
    if not queries:
        vlm.action_queries.copy_(source.action_queries)
    features = torch.randn(2, 200, 128, generator=torch.Generator().manual_seed(0))
    sentences = ["pick up the milk", "open it"]
    assert torch.allclose(vlm(features, sentences).queries, source(features, sentences).queries, atol=1e-6)
    pictures = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    assert torch.allclose(vlm.encode_images(pictures), source.encode_images(pictures), atol=1e-5)


@pytest.mark.parametrize(("layout", "names"), [("hf", HF), ("prismatic", PRISMATIC)])
def test_public_names_become_ours_and_back(source, layout, names):
    own = {
        key: value for key, value in source.state_dict().items() if layout == "hf" or key != "action_queries"
    }
    public = public_names(own, layout)
    assert set(names) <= set(public)
    assert {name: key for name, key in zip(public, own, strict=True) if name in names} == names
    back = our_names(public, layout)
    assert list(back) == list(own)
    assert all(torch.equal(back[key], own[key]) for key in own)


def test_a_hugging_face_checkpoint_in_one_file_or_in_shards(source, hf_state, tmp_path):
    save_file(hf_state, tmp_path / "model.safetensors")
    assert_same(build(tmp_path), source)
    assert_same(build(tmp_path / "model.safetensors"), source)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(hf_state)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({key: hf_state[key].to(torch.float64) for key in keys}, tmp_path / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(build(tmp_path), source)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(FoveaError, match=r"expected model-2\.safetensors beside"):
        build(tmp_path)


def test_a_prismatic_checkpoint_file_or_run_folder(source, prismatic_state, tmp_path):
    path = tmp_path / "checkpoints" / "latest-checkpoint.pt"
    path.parent.mkdir()
    torch.save({"model": prismatic_state}, path)
    assert_same(build(path), source, queries=False)
    assert_same(build(tmp_path, trainable="nothing"), source, queries=False)


def test_without_vision_in_the_checkpoint_the_encoder_s_own_weights_are_wanted(
    prismatic_state, tmp_path, monkeypatch
):
    prismatic_state.pop("vision_backbone")
    torch.save({"model": prismatic_state}, tmp_path / "vlm.pt")
    wanted = []

    def create(name, random_weights=False):
        wanted.append((name, random_weights))
        raise FoveaError("wanted")

    monkeypatch.setattr("fovea.vlm.create.create_vision_encoder", create)
    with pytest.raises(FoveaError, match="wanted"):
        build(tmp_path / "vlm.pt", weights="pretrained")
    assert wanted == [("timm/test_vit2+timm/test_vit", False)]


def test_features_are_cached_with_the_vision_that_the_checkpoint_brings(source, hf_state, tmp_path):
    save_file(hf_state, tmp_path / "model.safetensors")
    vlm = VLMConfig.preset("toy_full", checkpoint=str(tmp_path), trainable="queries")
    config = FocusVLAConfig.tiny(vlm=vlm, device="cpu", top_k=4)
    assert not config.uses_pixels
    encoder = encoder_of(config)
    for key, value in source.vision_encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[key], value)
    pictures = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    cached = encoder.encode_image(pictures.flatten(0, 1)).values.unflatten(0, (2, 2)).flatten(1, 2)
    assert torch.equal(create_vlm(vlm).encode_images(pictures), cached)


def test_what_is_missing_unexpected_or_of_another_size_is_listed(source, hf_state):
    state = our_names(hf_state, "hf")
    state.pop("projector.fc2.bias")
    state["language_model.model.layers.9.mlp.up_proj.weight"] = torch.zeros(2, 2)
    state["action_queries"] = torch.zeros(64, 32)
    with pytest.raises(FoveaError) as caught:
        load_checkpoint(source, state, "somewhere")
    for words in (
        "1 missing: projector.fc2.bias",
        "1 unexpected: language_model.model.layers.9.mlp.up_proj.weight",
        "action_queries is (64, 32), not (4, 32)",
    ):
        assert words in str(caught.value)
    only = {key: value for key, value in state.items() if key.startswith("projector.")}
    with pytest.raises(FoveaError, match="it lacks language_model"):
        load_checkpoint(source, only, "somewhere")


def test_files_that_are_no_public_checkpoint_are_refused(hf_state, tmp_path):
    with pytest.raises(FoveaError, match="found none of them"):
        read_checkpoint(tmp_path)
    with pytest.raises(FoveaError, match="found none at"):
        read_checkpoint(tmp_path / "no.safetensors")
    torch.save({"state": {}}, tmp_path / "other.pt")
    with pytest.raises(FoveaError, match="projector and llm_backbone"):
        read_checkpoint(tmp_path / "other.pt")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "code.pt")
    with pytest.raises(FoveaError, match="tensors and nothing else"):
        read_checkpoint(tmp_path / "code.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FoveaError, match=r"no safetensors file"):
        read_checkpoint(tmp_path / "broken.safetensors")
    save_file({**hf_state, "film.weight": torch.zeros(1)}, tmp_path / "film.safetensors")
    with pytest.raises(FoveaError, match=r"got film\.weight as well"):
        read_checkpoint(tmp_path / "film.safetensors")


def test_adapters_must_be_merged_before_names_are_public(source):
    adapted = create_vlm(VLMConfig.preset("toy_full"))
    with pytest.raises(FoveaError, match="merge adapters"):
        public_names(adapted.state_dict(), "hf")
