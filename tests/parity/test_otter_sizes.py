"""`fovea convert otter` at sizes without golden tensors: any cameras, heads, context, masks and temperatures."""

from pathlib import Path

import pytest
import torch
from otter_reference import Sizes, make_otter
from safetensors.torch import save_file

from fovea.cli import main
from fovea.encoders import create_encoder
from fovea.encoders.files import read_weights
from fovea.errors import FoveaError
from fovea.policies import checked
from fovea.policies.ef_vla.convert_otter import convert_otter
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.otter_file import read_otter
from fovea.policies.ef_vla.otter_parity import otter_deviations

GOLDEN = Path(__file__).parents[1] / "goldens" / "otter_tiny.safetensors"
OUTPUTS = {"out.patches", "out.text", "out.token", "out.actions", "out.stepwise_actions_sample0"}

VARIANTS = {
    "three cameras": Sizes(cameras=3, vision_out=96),
    "one camera": Sizes(cameras=1, vision_out=32),
    "masked text": Sizes(pool_true_text=True),
    "masked and short text": Sizes(pool_true_text=True, first_k=5),
    "masked text, its ends not the last of the vocabulary": Sizes(pool_true_text=True, markers=(41, 40)),
    "long context": Sizes(steps=9, seq_length=12),
    "context of one": Sizes(steps=4, seq_length=1),
    "other widths": Sizes(
        dim=48, layers=3, heads=2, expansion=3, readouts=2, pooling_heads=4, pooling_layers=3, text_out=16,
        vision_out=48, proprio_hidden=9, proprio_out=5, joint=20, cameras=3, action_horizon=7, seq_length=3,
    ),
    "readouts as wide as the features": Sizes(joint=16, text_out=64, vision_out=128),
    "another robot": Sizes(action_dim=14, proprio=7, action_horizon=4),
    "sharp": Sizes(temperature=0.004),
    "blunt": Sizes(temperature=150.0),
    "a CLIP without the first layer norm": Sizes(clip={"no_ln_pre": True}),
    "a CLIP with more patches": Sizes(clip={"image_size": 40, "mlp_ratio": 2.5, "layers": 1}),
}  # fmt: skip


def write(sizes: Sizes, path: Path, metadata: bool = True) -> Path:
    save_file(make_otter(sizes), path, sizes.metadata() if metadata else None)
    return path


@pytest.mark.parametrize("name", VARIANTS)
def test_the_command_reads_every_size_and_agrees_with_the_reference(name, tmp_path, capsys):
    sizes = VARIANTS[name]
    path = write(sizes, tmp_path / "otter.safetensors")
    assert main(["convert", "otter", str(path), str(tmp_path / "policy")]) == 0
    out = capsys.readouterr().out
    assert all(output in out for output in OUTPUTS)
    policy = EFVLAPolicy.from_pretrained(tmp_path / "policy")
    deviations = otter_deviations(policy, read_otter(path).samples)
    assert deviations.keys() == OUTPUTS
    assert max(deviations.values()) < 1e-5
    config = policy.config
    assert (config.n_obs_steps, config.chunk_size) == (sizes.seq_length, sizes.action_horizon)
    assert len(config.camera_keys) == sizes.cameras
    assert config.action_space == ("se3_relative" if sizes.action_dim == 10 else "env")


def test_a_converted_policy_that_is_saved_elsewhere_takes_its_clip_along(tmp_path):
    path = write(Sizes(), tmp_path / "otter.safetensors")
    convert_otter(path, tmp_path / "policy")
    EFVLAPolicy.from_pretrained(tmp_path / "policy").save_pretrained(tmp_path / "copy")
    (tmp_path / "policy").rename(tmp_path / "gone")
    copy = EFVLAPolicy.from_pretrained(tmp_path / "copy")
    assert max(otter_deviations(copy, read_otter(path).samples).values()) < 1e-5


def test_flags_say_what_a_file_without_metadata_does_not(tmp_path, capsys):
    sizes = Sizes(pooling_heads=2, seq_length=3, first_k=6, pool_true_text=True, cameras=3, vision_out=96)
    path = write(sizes, tmp_path / "otter.safetensors", metadata=False)
    line = ["convert", "otter", str(path), str(tmp_path / "policy"), "--vision_heads", "2", "--text_heads=2"]
    flags = ["--pooling_heads", "2", "--n_obs_steps", "3", "--word_positions", "6", "--pool_true_text"]
    assert main([*line, *flags, "--cameras", "wrist,front,left"]) == 0
    capsys.readouterr()
    keys = EFVLAPolicy.from_pretrained(tmp_path / "policy").config.camera_keys
    assert keys == [f"observation.images.{name}" for name in ("front", "left", "wrist")]
    assert main([*line, "--word_positions", "6"]) == 1  # a check failed: other heads, other numbers
    assert "further than 1e-05" in capsys.readouterr().out


def test_the_golden_file_itself_may_be_converted_and_checked(tmp_path, capsys):
    assert main(["convert", "otter", str(GOLDEN), str(tmp_path / "policy")]) == 0
    assert "out.stepwise_actions_sample0" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "policy").iterdir()} >= {"config.json", "clip.safetensors"}


def test_the_reference_written_for_these_tests_gives_the_golden_tensors():
    import json

    from otter_reference import Otter
    from safetensors import safe_open

    with safe_open(GOLDEN, framework="pt") as file:
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = json.loads(file.metadata()["model"])
    sizes = Sizes(
        text_out=32, vision_out=128, proprio_hidden=32, proprio_out=16, dim=64, joint=48,
        heads=facts["transformer_heads"], clip={"image_size": 32, "width": 64, "head_width": 64},
    )  # fmt: skip
    model = Otter(sizes).eval()
    weights = {k.removeprefix("weights."): v for k, v in golden.items() if k.startswith("weights.")}
    ours = {key: value for key, value in weights.items() if not key.startswith("clip_model.")}
    missing = model.load_state_dict(ours, strict=False)
    assert missing.unexpected_keys == []
    assert all(key.startswith("clip_model.") for key in missing.missing_keys)
    with torch.no_grad():
        tokens = model.tokens(
            golden["out.patches"], golden["out.text"], golden["in.text"], golden["in.proprio"]
        )
        assert torch.allclose(tokens, golden["out.token"], atol=1e-5)
        assert torch.allclose(model.actions(tokens), golden["out.actions"], atol=1e-5)


def test_a_torch_checkpoint_in_a_wrapper_and_in_half_precision(tmp_path):
    tensors = make_otter(Sizes())
    weights = {
        f"module.{key.removeprefix('weights.')}": value.half()
        for key, value in tensors.items()
        if key.startswith("weights.")
    }
    torch.save({"model": weights, "step": 7}, tmp_path / "checkpoint_7.pt")
    facts = {"clip": {"vision_heads": 2, "transformer_heads": 2}, "n_obs_steps": 4}
    policy = convert_otter(tmp_path / "checkpoint_7.pt", tmp_path / "policy", **facts)
    samples = {key: value for key, value in tensors.items() if not key.startswith("weights.")}
    deviations = otter_deviations(policy, samples)
    assert max(deviations.values()) < 2e-2  # of the half precision
    assert next(policy.parameters()).dtype == torch.float32


def test_a_checkpoint_without_its_clip_names_the_one_it_wants(tmp_path):
    tensors = make_otter(Sizes())
    rest = {key: value for key, value in tensors.items() if "clip_model" not in key}
    save_file(rest, tmp_path / "otter.safetensors")
    policy = convert_otter(tmp_path / "otter.safetensors", tmp_path / "policy", n_obs_steps=4)
    assert policy.config.encoder == "ViT-L-14/openai"
    assert not (tmp_path / "policy" / "clip.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights.policy.layers.1.output.bias": None}, r"expected policy\.layers\.1\.output\.bias"),
        (
            {"weights.policy.layers.1.adapter.bias": torch.zeros(3)},
            r"no others, got policy\.layers\.1\.adapter",
        ),
        (
            {"weights.visual_extraction.1.pos_emb": torch.zeros(9, 24)},
            r"fixed table visual_extraction\.1\.pos_emb",
        ),
        ({"weights.visual_extraction.0.temperature": torch.tensor(0.0)}, "positive temperatures"),
        ({"weights.clip_model.ln_final.bias": None}, "does not hold the weights of a CLIP"),
        ({"weights.action_head.mlp.2.weight": torch.zeros(61, 32)}, "give --action_size"),
        ({"weights.visual_extraction.0.pos_emb": torch.zeros(1, 9, 24)}, "to have 2 dimensions, got shape"),
        ({"weights.vision_poolings.0.query": torch.zeros(4, 8)}, "to have 3 dimensions, got shape"),
    ],
)
def test_what_is_missing_unknown_or_changed_is_named(change, words, tmp_path):
    tensors = {k: v for k, v in (make_otter(Sizes()) | change).items() if v is not None}
    save_file(tensors, tmp_path / "otter.safetensors")
    with pytest.raises(FoveaError, match=words):
        convert_otter(tmp_path / "otter.safetensors", tmp_path / "policy")


def test_heads_that_do_not_fit_leave_nothing_behind(tmp_path, capsys):
    path = write(Sizes(), tmp_path / "otter.safetensors", metadata=False)
    line = ["convert", "otter", str(path), str(tmp_path / "policy")]
    for flags, words in (
        (["--vision_heads", "3"], "expected vision_heads that divide the width 32"),
        (["--text_heads", "5"], "expected transformer_heads that divide the width 32"),
        (["--vision_heads", "-1"], "vision_heads: expected at least 1"),
    ):
        assert main([*line, *flags]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "policy").exists()
    (tmp_path / "policy").write_text("a file")
    assert main([*line, "--vision_heads", "2", "--text_heads", "2"]) == 2
    assert "policy: File exists; choose another path" in capsys.readouterr().err


def test_metadata_that_are_no_configuration_are_left_alone(tmp_path):
    metadata = Sizes().metadata() | {"model": "otter", "shared": "null"}
    save_file(make_otter(Sizes()), tmp_path / "otter.safetensors", metadata)
    facts = read_otter(tmp_path / "otter.safetensors").facts
    assert facts.n_heads is None
    assert facts.clip["vision_heads"] == 2
    save_file(make_otter(Sizes()), tmp_path / "broken.safetensors", metadata | {"model": '{"action_dim": 1'})
    with pytest.raises(FoveaError, match="expected JSON in the metadata entry model"):
        read_otter(tmp_path / "broken.safetensors")


@pytest.mark.parametrize("content", [b"hello world", b"junk", b"", b"\x80\x02]q", bytes(range(256))])
def test_a_file_that_holds_no_tensors_is_named(content, tmp_path, capsys):
    (tmp_path / "otter.pt").write_bytes(content)
    assert main(["convert", "otter", str(tmp_path / "otter.pt"), str(tmp_path / "policy")]) == 2
    assert f"expected tensors and nothing else in {tmp_path / 'otter.pt'}" in capsys.readouterr().err


def test_a_checkpoint_of_poses_acts_on_what_libero_shows(tmp_path, capsys):
    path = write(Sizes(), tmp_path / "otter.safetensors")
    policy = convert_otter(path, tmp_path / "policy", state_layout="axis_angle")
    assert max(otter_deviations(policy, read_otter(path).samples).values()) < 1e-5
    frame = {
        "observation.state": torch.tensor([[0.1, 0.2, 0.3, 3.1, 0.0, 0.1, 0.04, -0.04]]),
        "observation.language.tokens": read_otter(path).samples["in.text"][:1],
        **{key: torch.rand(1, 3, 24, 24) for key in policy.config.camera_keys},
    }
    action = policy.select_action(frame)
    assert action.shape == (1, 7)
    assert action.abs().max() <= 1
    sizes = Sizes(action_dim=7, proprio=8)
    line = ["convert", "otter", str(write(sizes, tmp_path / "other.safetensors")), str(tmp_path / "other")]
    assert main([*line, "--state_layout", "axis_angle"]) == 2
    assert "expected a checkpoint of poses (10 numbers a state and an action" in capsys.readouterr().err


def test_token_ids_are_encoded_once(tmp_path, monkeypatch):
    path = write(Sizes(), tmp_path / "otter.safetensors")
    policy = convert_otter(path, tmp_path / "policy")
    text = read_otter(path).samples["in.text"]
    whole = policy.encoder.encode_tokens(text)
    asked = []
    encode = type(policy.encoder).encode_tokens
    monkeypatch.setattr(
        type(policy.encoder), "encode_tokens", lambda self, ids: asked.append(len(ids)) or encode(self, ids)
    )
    for _ in range(3):
        words = policy._features.every_word(
            {"observation.language.tokens": text[[1, 0, 1]]}, torch.device("cpu")
        )
    assert asked == [2]
    torch.testing.assert_close(words.values, whole.values[[1, 0, 1]])


def test_a_policy_of_the_hub_finds_its_clip(tmp_path, monkeypatch):
    path = write(Sizes(), tmp_path / "otter.safetensors")
    convert_otter(path, tmp_path / "snapshot")
    asked = []

    def download(name, **options):
        asked.append((name, options["revision"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(checked, "snapshot_download", download)
    policy = EFVLAPolicy.from_pretrained("someone/otter", revision="v2")
    assert asked == [("someone/otter", "v2")]
    assert max(otter_deviations(policy, read_otter(path).samples).values()) < 1e-5


def test_a_policy_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(
        FoveaError, match=r"expected a policy's folder .* or its name on the Hugging Face hub"
    ):
        EFVLAPolicy.from_pretrained(tmp_path / "none")


def test_openai_s_own_archive_holds_numbers_beside_the_weights(tmp_path):
    tensors = read_weights(GOLDEN)
    prefix = "weights.clip_model."
    clip = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 512}
    torch.save(
        {"model_state_dict": clip | {k: torch.tensor(v) for k, v in sizes.items()}}, tmp_path / "clip.pt"
    )
    encoder = create_encoder(f"clip:{tmp_path / 'clip.pt'}")
    assert (encoder.image_size, encoder.width) == (32, 48)


def test_a_norm_behind_the_transformer_is_kept(tmp_path):
    tensors = make_otter(Sizes()) | {
        "weights.policy.norm.weight": torch.ones(32),
        "weights.policy.norm.bias": torch.zeros(32),
    }
    save_file(tensors, tmp_path / "otter.safetensors", Sizes().metadata())
    policy = convert_otter(tmp_path / "otter.safetensors", tmp_path / "policy")
    assert policy.config.final_norm
    plain = otter_deviations(policy, read_otter(tmp_path / "otter.safetensors").samples)
    assert plain["out.token"] < 1e-5 < plain["out.actions"]


def test_a_converted_policy_acts_from_token_ids(tmp_path):
    sizes = Sizes(cameras=3, vision_out=96)
    path = write(sizes, tmp_path / "otter.safetensors")
    policy = convert_otter(path, tmp_path / "policy")
    text = read_otter(path).samples["in.text"]
    batch = {
        "observation.state": torch.eye(2, 10),
        "observation.language.tokens": text,
        **{key: torch.rand(2, 3, 24, 24) for key in policy.config.camera_keys},
    }
    assert policy.select_action(batch).shape == (2, 10)
    policy.reset()
    del batch["observation.language.tokens"]
    batch["task"] = ["go", "go"]
    with pytest.raises(FoveaError, match=r"give token ids under observation\.language\.tokens"):
        policy.select_action(batch)
