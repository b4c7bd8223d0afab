"""Training a backbone from scratch."""

import numpy as np
import pytest
import torch
from toy_graft import SIZES, make_suite

from fovea.data import keys
from fovea.data.dataset import open_dataset
from fovea.errors import FoveaError
from fovea.grafting import native
from fovea.grafting.native_training import StateDropout, train_native
from fovea.training.config import TrainConfig


def test_a_run_goes_on_whether_its_folder_is_named_from_here_or_from_the_root(tmp_path, monkeypatch):
    monkeypatch.setitem(native.SIZES, "toy", SIZES)
    monkeypatch.chdir(tmp_path)
    make_suite(tmp_path / "data")
    datasets = [open_dataset(tmp_path / "data")]
    config = TrainConfig(steps=2, batch_size=2, prefetch=1, validation_windows=2)
    here = (tmp_path / "backbone").relative_to(tmp_path)
    first = train_native("toy", datasets, here, config, progress=False)
    again = train_native("toy", datasets, tmp_path / "backbone", config, progress=False)
    assert (first.resumed_from, again.resumed_from) == (0, 2)


class Sees(torch.nn.Module):
    """Remembers the states of the last batch."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.states = batch[keys.STATE]
        return self.states.sum()


def test_a_share_of_the_training_samples_loses_its_state_and_none_of_the_validation_samples():
    policy, states = Sees(), torch.rand(2000, 8) + 1
    policy.register_forward_pre_hook(StateDropout(0.3))
    batch = {keys.STATE: states}
    policy.train()(batch)
    lost = (policy.states == 0).all(1)
    assert 0.25 < lost.float().mean() < 0.35
    assert torch.equal(policy.states[~lost], states[~lost])
    assert torch.equal(batch[keys.STATE], states)  # the caller's own is left as it was
    policy.eval()(batch)
    assert torch.equal(policy.states, states)


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(FoveaError, match=r"state_dropout: expected a share in \[0, 1\)"):
        StateDropout(share)


def test_a_rare_movement_does_not_lie_many_deviations_out():
    class Recorded:
        state = np.zeros((1000, 8), np.float32)
        action = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)

    Recorded.action[:, 1] = 0
    Recorded.action[7, 1] = 1.0  # turned once
    plain, floored = (native.statistics([Recorded], floor=floor)["action"]["std"] for floor in (0, 0.1))
    assert 1 / plain[1] > 30
    assert 1 / floored[1] == pytest.approx(10)
    assert floored[0] == plain[0]
