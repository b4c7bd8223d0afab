"""The public OTTER implementation and ours give the same numbers (golden tensors, fp32, 1e-5)."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fovea.encoders.clip import ClipEncoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla import features_ef_vla
from fovea.policies.ef_vla.convert_otter import convert_otter, otter_config, otter_weights
from fovea.policies.ef_vla.model_ef_vla import EFVLAModel, StepState
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.tokens import Tokens

GOLDEN = Path(__file__).parents[1] / "goldens" / "otter_tiny.safetensors"
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with safe_open(GOLDEN, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def weights(golden) -> dict[str, torch.Tensor]:
    prefix = "weights."
    return {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def policy_weights(weights) -> dict[str, torch.Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith("clip_model.")}


@pytest.fixture(scope="module")
def clip(weights) -> ClipEncoder:
    """OpenAI's layout in open_clip's model; the cut vocabulary has its own tokenizer, not needed here."""
    with safe_open(GOLDEN, framework="pt") as file:
        sizes = json.loads(file.metadata()["clip"])
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 512, "width": 64, "heads": 2, "layers": 2}
    model = open_clip.CLIP(sizes["embed_dim"], vision, text, quick_gelu=True)
    prefix = "clip_model."
    model.load_state_dict(
        {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    )
    ids = {"start": torch.tensor([510]), "end": torch.tensor([511])}

    def tokenize(sentences: list[str]) -> torch.Tensor:
        rows = torch.zeros(len(sentences), 77, dtype=torch.long)
        for row, sentence in zip(rows, sentences, strict=True):
            words = torch.tensor([sum(map(ord, word)) % 500 + 1 for word in sentence.split()])
            row[: len(words) + 2] = torch.cat([ids["start"], words, ids["end"]])
        return rows

    encoder = ClipEncoder(model, name="golden", tokenizer=tokenize)
    encoder.freeze()
    return encoder


@pytest.fixture(scope="module")
def model(policy_weights) -> EFVLAModel:
    """The reference's streaming context of 4; the golden sequence is longer."""
    config = otter_config(policy_weights, n_obs_steps=4)
    model = EFVLAModel(config)
    model.load_state_dict(otter_weights(policy_weights, config), strict=True)
    return model.eval()


def test_patches_at_x_attn(golden, clip):
    patches = clip.patches(golden["in.images"].flatten(0, 2)).view_as(golden["out.patches"])
    assert torch.allclose(patches, golden["out.patches"], **TOLERANCE)


def test_text_at_every_position(golden, clip):
    assert torch.allclose(clip.encode_ids(golden["in.text"])[:, :15], golden["out.text"], **TOLERANCE)


@torch.no_grad()
def test_tokens_and_actions_over_the_whole_sequence(golden, model):
    words = Tokens(golden["out.text"], torch.ones(2, 15, dtype=torch.bool))
    tokens = model.tokens(golden["out.patches"], words, golden["in.proprio"])
    assert torch.allclose(tokens, golden["out.token"], **TOLERANCE)
    assert torch.allclose(model.predict(tokens), golden["out.actions"], **TOLERANCE)


@torch.no_grad()
def test_actions_step_by_step_with_the_reference_s_context_of_4(golden, model):
    state = StepState()
    stepped = torch.cat([model.step(token[None], state) for token in golden["out.token"][0]])
    assert torch.allclose(stepped, golden["out.stepwise_actions_sample0"], **TOLERANCE)


def test_a_converted_checkpoint_loads_through_the_front_door(weights, clip, tmp_path, monkeypatch, golden):
    source, target = tmp_path / "otter.safetensors", tmp_path / "policy"
    save_file({key: value.contiguous() for key, value in weights.items()}, source)
    convert_otter(source, target, n_obs_steps=4, clip={"transformer_heads": 2})
    monkeypatch.setattr(features_ef_vla, "create_encoder", lambda name, tap=None: clip)
    policy = EFVLAPolicy.from_pretrained(target)
    words = Tokens(golden["out.text"], torch.ones(2, 15, dtype=torch.bool))
    with torch.no_grad():
        actions = policy.model(golden["out.patches"], words, golden["in.proprio"])
    assert torch.allclose(actions, golden["out.actions"], **TOLERANCE)
    batch = {
        "observation.images.image": torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8),
        "observation.images.image2": torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8),
        "observation.state": golden["in.proprio"][:1, 0],
        "task": ["pick up the milk"],
    }
    assert policy.select_action(batch).shape == (1, 10)
    assert {path.name for path in target.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "clip.safetensors",
    }


def test_foreign_weights_are_named(tmp_path):
    with pytest.raises(FoveaError, match="expected OTTER's weights"):
        otter_config({"foo": torch.zeros(1)})
    with pytest.raises(FoveaError, match=r"\.safetensors"):
        convert_otter(tmp_path / "otter.npz", tmp_path / "out")


def test_words_lie_between_start_and_end_token(clip):
    words = clip.encode_text(["pick up the milk", "go"])
    assert words.values.shape == (2, 77, 48)
    assert words.mask.sum(1).tolist() == [4, 1]
    assert words.mask[0].nonzero().flatten().tolist() == [1, 2, 3, 4]
    embedded = clip.embed_text(["pick up the milk"])
    assert torch.allclose(
        embedded, clip.model.encode_text(clip._ids(["pick up the milk"]), normalize=True), atol=1e-6
    )
