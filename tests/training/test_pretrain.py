"""Pretraining on a toy corpus of coloured shapes: learns to point, resumes exactly, refuses foreign folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fovea.data.phrases import Lexicon, Naming
from fovea.encoders.registry import create_encoder
from fovea.errors import FoveaError
from fovea.training.pretrain import PretrainConfig, run
from fovea.training.pretrain_loss import PretrainLoss, TextBatch

LEXICON = Lexicon(
    {
        "red_block": Naming(("block",), ("red",)),
        "blue_block": Naming(("block",), ("blue",)),
        "basket": Naming(("basket",)),
    }
)
COLOURS = {0: (200, 40, 40), 1: (40, 60, 200), 2: (220, 200, 60)}


def write_corpus(folder: Path, scenes: int = 96) -> Path:
    """Grey pictures with one 16-40 px square of each kind, sometimes missing; two cameras a scene."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    images = rng.integers(90, 130, (2 * scenes, 128, 128, 3), dtype=np.uint8)
    labels = np.full((2 * scenes, 128, 128), 255, np.uint8)
    for image, label in zip(images, labels, strict=True):
        for kind, colour in COLOURS.items():
            if rng.random() < 0.8:
                side = rng.integers(16, 40)
                y, x = rng.integers(0, 128 - side, 2)
                image[y : y + side, x : x + side] = colour
                label[y : y + side, x : x + side] = kind
    record = {
        "categories": [{"name": name} for name in LEXICON.names],
        "cameras": ["agentview", "wrist"],
        "seed": 0,
    }
    (folder / "corpus.json").write_text(json.dumps(record))
    half = scenes
    for shard, part in enumerate((slice(0, half), slice(half, 2 * scenes))):
        count = np.arange(2 * scenes)[part]
        np.savez(
            folder / f"{shard:05d}.npz",
            images=images[part], labels=labels[part],
            camera=(count % 2).astype(np.uint8), scene=(count // 2).astype(np.int32),
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("tap", ["attn_qk", "out"])
def test_learns_to_point_through_either_tap(corpus: Path, tmp_path: Path, tap: str) -> None:
    config = PretrainConfig.tiny(corpus=corpus, output=tmp_path, tap=tap, steps=200, learning_rate=4e-3)
    summary = run(config, LEXICON)["pointing"]["summary"]
    for form in ("nouns", "colours", "colours_among_variants", "instructions", "words"):
        assert summary[form]["all"] > 0.8, summary
    for name in ("tiny.safetensors", "tiny.json", "model_card.md", "model_card.json", "heat_maps.png"):
        assert (tmp_path / name).stat().st_size > 0
    encoder = create_encoder(f"tiny:{tmp_path}")
    assert encoder.tap == tap
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_stopped_run_ends_with_the_same_weights(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PretrainConfig.tiny(corpus=corpus, output=tmp_path / "whole")
    run(whole, LEXICON)
    stopped = PretrainConfig.tiny(corpus=corpus, output=tmp_path / "stopped")
    step, calls = __import__("fovea.training.pretrain", fromlist=["_step"])._step, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 50:  # ten steps after the last checkpoint
            raise KeyboardInterrupt
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr("fovea.training.pretrain._step", dying)
        with pytest.raises(KeyboardInterrupt):
            run(stopped, LEXICON)
    assert (tmp_path / "stopped" / "state.safetensors").is_file()
    run(stopped, LEXICON)
    files = [tmp_path / name / "tiny.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps))


def test_a_folder_of_another_run_is_refused(corpus: Path, tmp_path: Path) -> None:
    run(PretrainConfig.tiny(corpus=corpus, output=tmp_path, steps=2), LEXICON)
    with pytest.raises(FoveaError, match="another configuration"):
        run(PretrainConfig.tiny(corpus=corpus, output=tmp_path, steps=2, seed=1), LEXICON)


def test_bad_corpora_are_named(tmp_path: Path) -> None:
    with pytest.raises(FoveaError, match=r"corpus\.json"):
        run(PretrainConfig.tiny(corpus=tmp_path / "nowhere", output=tmp_path), LEXICON)
    folder = write_corpus(tmp_path / "corpus", scenes=2)
    (folder / "00001.npz").write_bytes(b"half a shard")
    with pytest.raises(FoveaError, match=r"00001\.npz"):
        run(PretrainConfig.tiny(corpus=folder, output=tmp_path), LEXICON)


@pytest.mark.parametrize("change", [{"tap": "nose"}, {"contrast": "triplet"}, {"steps": 0}, {"crop": 60}])
def test_bad_configurations_are_refused(change: dict) -> None:
    with pytest.raises(FoveaError):
        PretrainConfig(**change)


@pytest.mark.parametrize("contrast", ["siglip", "clip"])
def test_losses_are_finite_when_nothing_is_visible(contrast: str) -> None:
    loss = PretrainLoss(8, contrast)
    patches = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=-1).requires_grad_()
    vectors = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    owners = torch.eye(3)
    terms = loss(patches, torch.zeros(2, 4, 3), TextBatch(vectors, vectors, owners, vectors, owners))
    assert terms["pointing"].item() == 0.0
    terms["loss"].backward()
    assert torch.isfinite(patches.grad).all()
