"""What cannot be read is named, with exit code 2, whichever verb meets it."""

import builtins
import json
import shutil
from pathlib import Path

import pytest

from fovea.cli import main
from fovea.encoders import tiny
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("eval --checkpoint X --tasks [0, 6, 7]", "write lists as 0,6,7 or '[0, 6, 7]', in quotes"),
        ("train --dataset X --policy.encoder_grid [1", "write lists as"),
        ("train --dataset X --seed -1", "seed of at least 0"),
        ("pretrain --warmup 0", "warmup to be at least 1"),
        ("pretrain --evaluate_pictures 0", "evaluate_pictures to be at least 1"),
        ("pretrain --seed -1", "seed of at least 0"),
        ("pretrain --learning_rate nan", "learning_rate to be finite"),
        ("pretrain --crop 256", "at most the picture's 128"),
        ("lerobot-eval --policy.path", "needs --policy.path"),
        ("graft --backbones a --encoders tiny --device abacus", "expected a device of this machine"),
    ],
)
def test_values_that_make_no_sense(line, words, capsys):
    assert main(line.split()) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [("tiny.json", '{"config": {'), ("tiny.json", "{}"), ("tiny.json", "[1]"), ("tiny.safetensors", "cut")],
)
def test_a_damaged_encoder(name, content, tmp_path, capsys):
    folder = shutil.copytree(tiny.WEIGHTS, tmp_path / "encoder")
    (folder / name).write_text(content)
    assert main(["cache", "--dataset", str(tmp_path), "--encoder", f"tiny:{folder}"]) == 2
    assert name in capsys.readouterr().err


def policy_folder(folder: Path, **changes: object) -> Path:
    EFVLAConfig(device="cpu").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_a_configuration_of_another_version(tmp_path, capsys):
    folder = policy_folder(tmp_path, a_field_to_come=3)
    assert main(["describe", str(folder)]) == 2
    assert "LeRobot cannot read" in capsys.readouterr().err


def test_a_damaged_configuration_of_a_policy_for_lerobot(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"type": "ef_vla", ')
    assert main(["lerobot-eval", f"--policy.path={tmp_path}"]) == 2
    assert "config.json" in capsys.readouterr().err


def test_packages_that_are_missing_are_named_with_what_brings_them(capsys, monkeypatch):
    ordinary = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
        return ordinary(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["reproduce", "graft", "--scale", "smoke"]) == 2
    assert "pip install 'lerobot_policy_fovea[vlm]'" in capsys.readouterr().err
