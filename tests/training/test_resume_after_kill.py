"""kill -9 at any moment, and a disk that fills: what was finished is kept, and the run goes on to the same numbers."""

import os
import random
import resource
import signal
import time

import pytest
import toy_training
from safetensors import SafetensorError
from toy_training import run, run_seeing
from warm_processes import start

from fovea.errors import FoveaError
from fovea.training import checkpoint
from fovea.training.checkpoint import last_checkpoint
from fovea.training.metrics import read_metrics


def losses(result):
    return [(entry["step"], entry["loss"], entry["gradient_norm"]) for entry in read_metrics(result.metrics)]


@pytest.mark.parametrize("kind", ["views", "pixels"])
def test_killed_at_random_moments_it_comes_to_the_same_losses(tmp_path, kind):
    whole = run_seeing(tmp_path / "whole", kind)
    moments, died = random.Random(kind), 0
    for _ in range(6):
        process = start(toy_training.run_seeing, tmp_path / "killed", kind, 0.01)
        process.join(moments.uniform(0.1, 0.7))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        died += process.exitcode == -signal.SIGKILL
        assert process.exitcode in (0, -signal.SIGKILL)
    assert died
    resumed = run_seeing(tmp_path / "killed", kind)
    assert losses(resumed) == losses(whole)
    for name in ("pretrained_model/model.safetensors", "training_state/state.safetensors"):
        assert (resumed.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()


def test_second_builder_finishes_what_a_killed_one_left(tmp_path):
    first = start(toy_training.seeing_source, "views", tmp_path, 0.05)
    while not list(tmp_path.glob("features/*/journal.jsonl")):
        time.sleep(0.01)
    second = start(toy_training.seeing_source, "views", tmp_path, 0.0)
    os.kill(first.pid, signal.SIGKILL)
    second.join()
    assert second.exitcode == 0
    views = toy_training.seeing_source("views", tmp_path).features
    assert len(list(tmp_path.glob("features/*/sealed.json"))) == 3
    assert views.verify() == []


def full(path, *args, **kw):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    folder, write = tmp_path / "full", checkpoint.save_file
    monkeypatch.setattr(
        checkpoint,
        "save_file",
        lambda tensors, path: full(path) if "000030" in str(path) else write(tensors, path),
    )
    with pytest.raises(FoveaError, match=r"the disk of .*checkpoints is full; free some space"):
        run(folder)
    assert last_checkpoint(folder).name == "000020"
    assert not list(folder.glob("checkpoints/.*tmp*"))
    monkeypatch.undo()
    resumed = run(folder)
    assert resumed.resumed_from == 20
    assert losses(resumed) == losses(whole)


def test_limit_on_file_sizes_ends_like_a_full_disk(tmp_path):
    run(tmp_path, steps=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(FoveaError, match=r"is full \(File too large\)"):
            run(tmp_path / "small", steps=10, log_every=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert last_checkpoint(tmp_path / "small") is None
    assert run(tmp_path / "small", steps=10).steps == 10


def test_disk_too_small_for_one_checkpoint_is_refused_before_training(tmp_path, monkeypatch):
    from fovea.data import files

    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(FoveaError, match=r"a checkpoint needs .* free some space"):
        run(tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl") == []
