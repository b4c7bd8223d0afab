"""Several processes train as one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_training
from ranks_together import free_port, train_together
from safetensors.torch import load_file
from torch import nn
from toy_training import run

from fovea.errors import FoveaError
from fovea.training.checkpoint import last_checkpoint
from fovea.training.draws import WholeBatchDraws
from fovea.training.metrics import read_metrics

TOLERANCE = 1e-5  # relative, over 40 steps: sums of float32 in another order
STATE = "checkpoints/last/training_state/state.safetensors"
NUMBERS = ("loss", "l1", "gradient_norm", "validation_loss")


def compared(folder):
    entries = read_metrics(folder / "metrics.jsonl")
    return [[entry.get(name, 0.0) for name in ("step", *NUMBERS)] for entry in entries]


def test_three_processes_then_one_go_the_way_of_one(tmp_path):
    run(tmp_path / "one")
    assert train_together(3, toy_training.run_and_die, tmp_path / "several") == [-signal.SIGKILL] * 3
    assert last_checkpoint(tmp_path / "several").name == "000020"
    assert run(tmp_path / "several").resumed_from == 20
    expected = compared(tmp_path / "one")
    assert len(expected) == 40
    torch.testing.assert_close(
        torch.tensor(compared(tmp_path / "several")), torch.tensor(expected), rtol=TOLERANCE, atol=1e-7
    )
    one, several = (load_file(tmp_path / name / STATE) for name in ("one", "several"))
    assert one.keys() == several.keys()
    assert not any(
        name.startswith("optimizer") and "tower" in name for name in one
    )  # it saw nothing, learned nothing
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_launched_by_accelerate(tmp_path):
    run(tmp_path / "one", steps=20)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    launch = (
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    )
    port = ("--main_process_port", str(free_port()))
    code = f"import toy_training; toy_training.run({str(tmp_path / 'two')!r}, steps=20)"
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}")
    launched = subprocess.run(
        [sys.executable, *launch, *port, script], env=environment, capture_output=True, text=True, check=False
    )
    assert launched.returncode == 0, launched.stderr
    torch.testing.assert_close(
        torch.tensor(compared(tmp_path / "two")),
        torch.tensor(compared(tmp_path / "one")),
        rtol=TOLERANCE,
        atol=1e-7,
    )


def test_nan_that_one_process_meets_stops_all_and_is_named(tmp_path):
    assert train_together(2, toy_training.run_poisoned, tmp_path / "run") == [2, 2]
    messages = [(tmp_path / f"run-{rank}.log").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert "episode 1, frames" in messages[0]
    assert "episode 0" not in messages[0]


def test_more_processes_than_windows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "16")
    with pytest.raises(FoveaError, match=r"batch_size .* of at least their number, 16, got 8"):
        run(tmp_path)


class Noisy(nn.Module):
    """Draws in every way that policies draw."""

    def forward(self, x):
        x = nn.functional.dropout(x, 0.3, training=True)
        x = nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.2) + x
        x = x + torch.randn_like(x) + torch.rand(len(x), 1, 1) + torch.empty_like(x).normal_()
        flat = x.flatten(0, 1)
        return x + (flat * torch.bernoulli(torch.empty_like(flat), p=0.5)).view_as(x)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_each_process_draws_its_rows_of_the_whole_batchs_noise(ranks):
    x = torch.arange(8 * 3 * 5, dtype=torch.float32).view(8, 3, 5) / 100
    torch.manual_seed(3)
    whole = Noisy()(x[:, :, :4])
    for rank in range(ranks):
        rows = torch.arange(8)[rank::ranks]
        torch.manual_seed(3)
        with WholeBatchDraws(8, rows):
            part = Noisy()(x[rows][:, :, :4])
        torch.testing.assert_close(part, whole[rows], rtol=1e-6, atol=1e-6)
