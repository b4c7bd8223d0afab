"""Verbs whose flags depend on a policy type: fovea train --policy.type, fovea describe."""

import json

import pytest

from fovea.cli import flags, main
from fovea.cli.train import Config
from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.vlm.config import VLMConfig


def train(line: str):
    return flags.parse(Config, ["--dataset", "d", *line.split()], "fovea train").policy_config()


def test_the_type_decides_which_flags_there_are():
    config = train("--policy.type focus_vla --policy.top_k_scope shared --policy.vlm.layers 3")
    assert type(config) is FocusVLAConfig
    assert type(config.vlm) is VLMConfig
    assert config == FocusVLAConfig.preset("tiny", top_k_scope="shared", vlm={"layers": 3})
    assert type(train("--policy.type=vla_adapter")) is VLAAdapterConfig
    assert train("--policy.fusion late").fusion == "late"  # EF-VLA where nothing else is said


def test_flags_lie_over_the_preset_even_where_they_equal_a_default():
    line = "--policy.type focus_vla --preset full --policy.vlm.attention prefix --policy.top_k 64"
    config = train(line)
    assert (config.vlm.attention, config.top_k) == ("prefix", 64)
    assert (config.vlm.layers, config.vlm.trainable) == (24, "lora")
    assert train(f"{line} --policy.n_heads 7").n_heads == 7  # fits 896, not the default's 192


def test_what_follows_from_a_field_follows_from_the_one_that_was_chosen():
    large = train("--policy.encoder ViT-L-14/openai")
    assert large == EFVLAConfig.preset("tiny", encoder="ViT-L-14/openai")
    assert (large.dim_model, large.temperature) == (512, 0.07)  # Table 5, not our small encoder's
    assert train("--policy.encoder ViT-L-14/openai --policy.dim_model 256").dim_model == 256
    assert train("--preset b32 --policy.encoder ViT-B-16-SigLIP/webli").encoder_grid is None
    poses = train("--policy.action_space=se3_relative --policy.gripper_loss=l1")
    assert poses.proprio_noise == 0.01
    assert train("--policy.type=vla_adapter --policy.vlm.kind=prismatic").vlm.layers == 24  # the kind's


def test_values_that_were_given_stay_however_they_were_spelt(tmp_path):
    assert train("--policy.encoder ViT-L-14/openai --policy.dim-model 256").dim_model == 256
    file = tmp_path / "run.yaml"
    file.write_text("policy:\n  encoder: ViT-L-14/openai\n  dim_model: 256\n")
    assert train(f"--config_path {file}").dim_model == 256
    file.write_text("policy:\n  vlm:\n    kind: prismatic\n    layers: 4\n")
    assert train(f"--policy.type focus_vla --config_path={file}").vlm.layers == 4
    with pytest.raises(FoveaError, match=r"run\.yaml"):
        train(f"--config_path {tmp_path / 'no' / 'run.yaml'}")


def test_a_configuration_file_is_read_like_flags(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 7\npolicy:\n  top_k: 32\n  vlm:\n    layers: 2\n")
    config = train(f"--policy.type focus_vla --config_path {file} --policy.top_k 16")
    assert (config.vlm.layers, config.top_k) == (2, 16)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--policy.type focus_vl", "a policy type among ef_vla, vla_adapter, focus_vla"),
        ("--policy.type focus_vla --preset l14", "a preset among tiny, full"),
        ("--policy.type focus_vla --policy.fusion late", "there is no flag --policy.fusion"),
        ("--policy.type vla_adapter --policy.variant prof", "variant"),
        ("--policy.type focus_vla --policy.gate wide", "gate"),
        ("--policy.optimizer_lr 1e-4", "goes by --learning_rate"),
        ("--policy.pretrained_path somewhere", "starts from new weights"),
        ("--policy.push_to_hub true", "pushes nothing"),
        ("--policy.optimizer-lr 1e-4", "goes by --learning_rate"),
    ],
)
def test_what_a_type_does_not_have_is_refused(line, hint, capsys):
    assert main(["train", "--dataset", "d", *line.split()]) == 2
    assert hint in capsys.readouterr().err


def test_help_shows_the_preset_s_own_values(capsys):
    assert main("train --policy.type focus_vla --preset full --help".split()) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "(default 256)" in out
    assert "--policy.top_k_scope query|shared|camera" in out
    assert "--policy.vlm.layers" in out


def described(capsys, *words: str) -> dict:
    assert main(["describe", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_describe_counts_a_type_and_a_checkpoint_alike(capsys, tmp_path):
    from fovea.policies.focus_vla.modeling_focus_vla import FocusVLAPolicy

    told = described(capsys, "focus-vla", "--preset", "tiny", "--top_k", "32", "--vlm.layers", "2")
    parameters = told["parameters"]
    assert (told["type"], told["title"], told["sizes"]["top_k"]) == ("focus_vla", "FocusVLA", 32)
    assert parameters["total"] == parameters["policy"] + parameters["vlm_trainable"]
    policy = FocusVLAPolicy(FocusVLAConfig.preset("tiny", device="cpu", top_k=32, vlm={"layers": 2}))
    apart = parameters["chunk_queries"] + parameters["proprio_projector"] + parameters["vlm"]
    assert sum(p.numel() for p in policy.parameters()) == parameters["policy"] + apart
    policy.save_pretrained(tmp_path / "pretrained_model")
    assert described(capsys, str(tmp_path))["parameters"] == parameters
    assert main(["describe", str(tmp_path)]) == 0
    assert f"{parameters['policy']:,}" in capsys.readouterr().out


def test_describe_knows_ef_vla_and_the_public_pro(capsys):
    assert described(capsys, "ef_vla")["parameters"]["policy"] > 1e6
    pro = described(capsys, "vla_adapter_pro", "--preset", "tiny")["parameters"]
    plain = described(capsys, "vla_adapter", "--variant", "pro", "--preset", "tiny")["parameters"]
    assert pro["policy"] - plain["policy"] == 4 * (192 * 384 + 384)  # the layer that nothing reads
    assert (pro["chunk_queries"], plain["chunk_queries"]) == (0, 8 * 7 * 192)


def test_describe_says_what_it_wants(capsys, tmp_path):
    assert main(["describe", "focus"]) == 2
    assert "ef_vla, vla_adapter, focus_vla" in capsys.readouterr().err
    assert main(["describe", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
    assert main(["describe"]) == 2
    assert "--name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["--policy.type", "--policy.type=", "--preset --steps 3", "--out=", "--config_path"]
)
def test_a_flag_without_its_value_is_refused(line):
    with pytest.raises(FoveaError, match=rf"{line.split()[0].rstrip('=')} needs a value, as in"):
        train(line)


def test_a_file_that_gives_the_policy_as_one_value_is_refused(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("policy: 3\n")
    with pytest.raises(FoveaError, match="expected the policy's settings by name"):
        train(f"--config_path {file}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--seed 99999999999999999999", "expected seed below"),
        ("--threads 100000", "expected threads of 1 to 1024"),
        ("--picture_memory 1e300", "picture_memory: expected 0 or more"),
        ("--augment.contrast 0.8,inf", "contrast: expected two finite factors"),
        ("--augment.crop_ratio 0.9,inf", "crop_ratio: expected two finite factors"),
    ],
)
def test_numbers_that_nothing_can_be_done_with_are_refused(line, said):
    with pytest.raises(FoveaError, match=said):
        train(line)
