"""`fovea convert otter` of odd files: converted exactly, or refused with what is wrong, and nothing written."""

import json
import re

import pytest
import torch
from otter_reference import Sizes, make_otter
from safetensors.torch import save_file

from fovea.cli import main
from fovea.errors import FoveaError
from fovea.policies.ef_vla.convert_otter import convert_otter
from fovea.policies.ef_vla.otter_file import read_otter
from fovea.policies.ef_vla.otter_parity import otter_deviations

SIZES = Sizes(pooling_heads=2)
FLAGS = ["--pooling_heads", "2", "--n_obs_steps", str(SIZES.seq_length)]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Weights alone, without a prefix and without their CLIP."""
    every = make_otter(SIZES)
    weights = {
        key.removeprefix("weights."): value for key, value in every.items() if key.startswith("weights.")
    }
    return {key: value.contiguous() for key, value in weights.items() if not key.startswith("clip_model.")}


def convert(tensors, folder, *flags, metadata=None, name="otter.safetensors"):
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name, metadata)
    return main(["convert", "otter", str(folder / name), str(folder / "policy"), *FLAGS, *flags])


def prefixed(tensors, prefix):
    return {f"{prefix}{key}": value.clone() for key, value in tensors.items()}


def other(tensors):
    """Another set of weights of the same sizes."""
    fixed = ("pos_emb", "rope", "temperature")
    return {
        key: value.clone() if any(part in key for part in fixed) else value + 0.5
        for key, value in tensors.items()
    }


def weight(policy):
    return policy.model.input.weight


@pytest.mark.parametrize(("mine", "ema"), [("model.", "ema."), ("", "ema_model.")])
def test_of_two_sets_of_weights_one_must_be_named(tensors, mine, ema, tmp_path, capsys):
    both = prefixed(tensors, mine) | prefixed(other(tensors), ema)
    assert convert(both, tmp_path) == 2
    said = capsys.readouterr().err
    assert f"got 2, whose names begin with {ema}, {mine or 'none'}; say which one with --prefix" in said
    assert not (tmp_path / "policy").exists()
    for prefix, expected in (
        (mine or "none", tensors),
        (ema, other(tensors)),
        (ema.rstrip("."), other(tensors)),
    ):
        policy = convert_otter(
            tmp_path / "otter.safetensors", tmp_path / "policy", prefix=prefix, pooling_heads=2
        )
        assert torch.equal(weight(policy), expected["input_projection.weight"])
    assert convert(both, tmp_path, "--prefix", "teacher.") == 2
    assert "prefix: expected one of" in capsys.readouterr().err


def test_a_weight_outside_the_prefix_is_named_and_left_out_only_when_asked(tensors, tmp_path, capsys):
    more = prefixed(tensors, "model.") | {"extra_head.weight": torch.ones(3)}
    assert convert(more, tmp_path) == 2
    assert "and no others, got extra_head.weight too; if they may be left out, say --prefix model." in (
        capsys.readouterr().err
    )
    assert convert(more, tmp_path, "--prefix", "model.") == 0


@pytest.mark.parametrize("name", ["model.safetensors", "clip.safetensors"])
def test_the_checkpoint_itself_is_never_overwritten(tensors, name, tmp_path, capsys):
    save_file(tensors, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    assert main(["convert", "otter", str(tmp_path / name), str(tmp_path), *FLAGS]) == 2
    assert "expected another folder for the policy" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_heads_that_contradict_the_rotary_table_are_refused(tensors, tmp_path, capsys):
    without = {key: value for key, value in tensors.items() if "inv_freq" not in key}
    assert convert(without, tmp_path, "--n_heads", "2") == 2
    assert "the widths of this transformer and of its rotary table, got 2; leave --n_heads out" in (
        capsys.readouterr().err
    )
    assert convert(without, tmp_path) == 0


@pytest.mark.parametrize(
    ("cameras", "names"),
    [("a.right,b.left", "right, left from a.right, b.left"), ("front.rgb,wrist.rgb", "rgb, rgb")],
)
def test_camera_names_that_would_change_places_are_refused(tensors, cameras, names, tmp_path, capsys):
    assert convert(tensors, tmp_path, "--cameras", cameras) == 2
    assert f"same order as the names, got {names}" in capsys.readouterr().err


TABLES = ("visual_extraction.0.pos_emb", "policy.layers.0.attention.rope.emb")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_compared_as_exactly_as_it_is_stored(tensors, table, tmp_path, capsys):
    assert convert(tensors | {table: tensors[table] + 0.003}, tmp_path) == 2
    assert f"expected the fixed table {table}" in capsys.readouterr().err
    for half in (torch.float16, torch.bfloat16):
        assert convert({key: value.to(half) for key, value in tensors.items()}, tmp_path) == 0
        assert convert(tensors | {table: tensors[table].to(half).float()}, tmp_path) == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.full((1,), float("nan")), "expected finite numbers in"),
        (torch.full((1,), float("inf")), "expected finite numbers in"),
        (torch.ones(1, dtype=torch.complex64), "as floating-point numbers, got torch.complex64"),
        (torch.ones(1, dtype=torch.int8), "as floating-point numbers, got torch.int8"),
    ],
)
def test_numbers_that_are_no_weights_are_named(tensors, value, words, tmp_path, capsys):
    key = "input_projection.weight"
    assert convert(tensors | {key: value.expand(tensors[key].shape)}, tmp_path) == 2
    said = capsys.readouterr().err
    assert key in said
    assert words in said


BLOCK = "text_pooling.blocks.0.attention"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_pooling.query", torch.tensor(1.0)),
        ("text_pooling.query", torch.zeros(2, 4, 8)),
        ("vision_poolings.0.query", torch.zeros(0, 4, 8)),
        (f"{BLOCK}.in_proj_bias", torch.tensor(0.0)),
        (f"{BLOCK}.in_proj_bias", torch.zeros(1)),
        ("proprio_encoder.mlp.0.weight", torch.zeros(16)),
        ("input_projection.weight", torch.tensor(1.0)),
        ("input_projection.weight", torch.zeros(0, 104)),
        ("policy.layers.0.intermediate.weight", torch.tensor(1.0)),
        ("action_head.mlp.2.weight", torch.tensor(1.0)),
        ("policy.layers.1.attention.rope.emb", torch.zeros(8)),
        ("policy.layers.0.attention.rope.emb", torch.zeros(8, 0)),
        ("visual_extraction.1.temperature", torch.zeros(2)),
    ],
)
def test_a_tensor_of_another_shape_is_named(tensors, key, value, tmp_path, capsys):
    assert convert(tensors | {key: value}, tmp_path) == 2
    assert key in capsys.readouterr().err
    assert not (tmp_path / "policy").exists()


def test_a_temperature_may_be_a_list_of_one(tensors, tmp_path):
    key = "visual_extraction.1.temperature"
    convert_otter(_saved(tensors, tmp_path / "a.safetensors"), tmp_path / "a", pooling_heads=2)
    listed = tensors | {key: tensors[key].reshape(1)}
    policy = convert_otter(_saved(listed, tmp_path / "b.safetensors"), tmp_path / "b", pooling_heads=2)
    assert torch.allclose(1 / policy.model.fusion.scale[1], tensors[key])


def _saved(tensors, path):
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("entry", "name", "value", "fact"),
    [
        ("model", "action_dim", "10", "action_size"),
        ("model", "action_dim", 10.0, "action_size"),
        ("model", "action_dim", 0, "action_size"),
        ("shared", "seq_length", "4", "n_obs_steps"),
        ("shared", "seq_length", 4.5, "n_obs_steps"),
        ("shared", "seq_length", 0, "n_obs_steps"),
        ("model", "first_k_tokens", 0, "word_positions"),
        ("model", "transformer_heads", True, "n_heads"),
        ("model", "pool_true_text", "false", "pool_true_text"),
        ("shared", "camera_keys", "ab", "cameras"),
        ("shared", "camera_keys", [1, 2], "cameras"),
        ("shared", "camera_keys", {"a": 1, "b": 2}, "cameras"),
        ("clip", "vision_heads", "2", "vision_heads"),
    ],
)
def test_metadata_of_another_kind_are_named(tensors, entry, name, value, fact, tmp_path, capsys):
    assert convert(tensors, tmp_path, metadata={entry: json.dumps({name: value})}) == 2
    assert re.search(
        rf"{fact}: expected .*, got {re.escape(repr(value))} \(in the metadata of", capsys.readouterr().err
    )


def test_what_is_assumed_is_said(tmp_path, capsys):
    seven = Sizes(action_dim=7, proprio=8, action_horizon=10, pooling_heads=2)
    every = make_otter(seven)
    bare = {
        key: value for key, value in every.items() if key.startswith("weights.") and "clip_model" not in key
    }
    assert convert(bare, tmp_path) == 0
    said = capsys.readouterr().out
    assert "chunks of 7 x 10 are a guess (OTTER's actions have 10 numbers, this state 8)" in said
    assert "the file has no CLIP" in said
    assert convert(bare, tmp_path, "--action_size", "7", "--encoder", "ViT-B-32/openai") == 0
    said = capsys.readouterr().out
    assert "chunks of 10 x 7" in said
    assert "Note" not in said


def test_a_whole_file_says_no_notes_and_agrees(tmp_path, capsys):
    save_file(make_otter(Sizes()), tmp_path / "otter.safetensors", Sizes().metadata())
    assert main(["convert", "otter", str(tmp_path / "otter.safetensors"), str(tmp_path / "policy")]) == 0
    assert "Note" not in capsys.readouterr().out


def test_a_set_of_weights_with_samples_beside_it_is_compared(tmp_path):
    every = make_otter(Sizes())
    two = every | {
        key.replace("weights.", "ema."): value.clone() for key, value in every.items() if "weights." in key
    }
    save_file(two, tmp_path / "otter.safetensors", Sizes().metadata())
    with pytest.raises(FoveaError, match=r"got 2, whose names begin with ema\., weights\."):
        read_otter(tmp_path / "otter.safetensors")
    policy = convert_otter(tmp_path / "otter.safetensors", tmp_path / "policy", prefix="weights")
    samples = read_otter(tmp_path / "otter.safetensors", "weights").samples
    assert max(otter_deviations(policy, samples).values()) < 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ids: ids * 0 - 1, "expected token ids from 0 to"),
        (lambda ids: ids + 10**6, "were they made by another tokenizer"),
        (lambda ids: ids.repeat(1, 9), r"expected at most \d+ token ids a sentence, got \d+"),
        (lambda ids: ids.float(), r"whole numbers, got torch\.float32"),
        (lambda ids: ids[..., None], r"of shape \(B, L\), got"),
        (lambda ids: ids[:1], "expected a batch of 2 frames, one an episode, got 1"),
    ],
)
def test_token_ids_of_another_tokenizer_are_refused(change, words, tmp_path):
    save_file(make_otter(Sizes()), tmp_path / "otter.safetensors", Sizes().metadata())
    policy = convert_otter(tmp_path / "otter.safetensors", tmp_path / "policy")
    ids = read_otter(tmp_path / "otter.safetensors").samples["in.text"]
    batch = {
        "observation.state": torch.eye(2, 10),
        "observation.language.tokens": ids,
        **{key: torch.rand(2, 3, 24, 24) for key in policy.config.camera_keys},
    }
    assert policy.select_action(batch).shape == (2, 10)
    with pytest.raises(FoveaError, match=words):
        policy.select_action(batch | {"observation.language.tokens": change(ids)})
