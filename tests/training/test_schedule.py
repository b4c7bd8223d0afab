from itertools import pairwise

import pytest
import torch
from torch import nn

from fovea.training.ema import WeightAverage
from fovea.training.schedule import ema_decay, learning_rate


def test_warm_up_peak_and_end():
    rates = [learning_rate(step, peak=1.0, warmup=10, steps=110) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    assert rates[60] == pytest.approx(0.505, abs=0.02)
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_run_shorter_than_the_warm_up():
    assert learning_rate(4, peak=1.0, warmup=10, steps=5) == pytest.approx(0.5)


def test_average_forgets_the_start():
    assert ema_decay(0, decay=0.999) == pytest.approx(0.1)
    assert ema_decay(100_000, decay=0.999) == 0.999
    assert ema_decay(50, decay=0.0) == 0.0


def test_average_applies_and_restores():
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average = WeightAverage(module)
    with torch.no_grad():
        module.weight.fill_(3.0)
    average.update(0.75)
    with average.applied():
        assert module.weight.item() == 1.5
    assert module.weight.item() == 3.0
    assert average.values["weight"].item() == 1.5
