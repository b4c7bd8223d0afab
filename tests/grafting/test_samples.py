"""Which moments are trained and scored on, and what their pictures must be."""

import numpy as np
import pytest
from toy_graft import make_suite

from fovea.data import keys
from fovea.data.dataset import open_dataset
from fovea.errors import FoveaError
from fovea.grafting.samples import FrameSubset, Samples, split
from fovea.grafting.settings import SampleSettings


def test_held_out_moments_are_of_episodes_that_are_not_trained_on(samples):
    training, held_out = ({m.episode.index for m in part} for part in (samples.train, samples.held_out))
    assert held_out == {2, 5}
    assert not training & held_out


def test_the_same_settings_give_the_same_moments_and_another_seed_others(data):
    dataset = open_dataset(data / "left")
    first, same, other = (Samples(dataset, SampleSettings(train=8, held_out=6, seed=s)) for s in (0, 0, 1))
    assert first.train == same.train
    assert first.train != other.train
    assert [(m.episode, m.step) for m in first.held_out] == [(m.episode, m.step) for m in other.held_out]
    assert first.describe() == same.describe() != other.describe()


def test_rows_lead_to_the_moments_own_pictures_states_and_actions(samples):
    for moment in (samples.train[0], samples.train[-1], samples.held_out[3]):
        whole = samples.dataset.frames(moment.episode.index, keys.IMAGES[0])[moment.step]
        episode = next(e for e in samples.frames.episodes if e.start <= moment.row < e.stop)
        cut = samples.frames.frames(episode.index, keys.IMAGES[0])[moment.row - episode.start]
        assert np.array_equal(whole, cut)
        assert np.array_equal(
            samples.frames.action[moment.row], samples.dataset.action[moment.episode.start + moment.step]
        )


def test_chunks_that_hang_over_the_end_repeat_the_last_action_and_are_masked(samples):
    moment = next(m for m in samples.held_out if m.step >= len(m.episode) - 2)
    batch = samples.batch([moment], 4)
    real = len(moment.episode) - moment.step
    assert batch["action_is_pad"][0].tolist() == [step >= real for step in range(4)]
    last = samples.dataset.action[moment.episode.stop - 1]
    assert (batch["action"][0, real:].numpy() == last).all()
    assert batch["observation.state"].shape == (1, 8)


def test_a_data_set_that_marks_no_episode_holds_out_the_last_of_each_task(tmp_path):
    root = make_suite(tmp_path / "unmarked", marked=False)
    training, held_out = split(open_dataset(root), 0.4)
    assert {e.index for e in held_out} == {4, 5}
    assert {e.task for e in held_out} == {e.task for e in training}


def test_too_few_episodes_are_refused_with_the_counts(tmp_path):
    root = make_suite(tmp_path / "short", episodes=4)
    with pytest.raises(FoveaError, match=r"2 episodes to train on and 2 held out.*gives 3 and 1 of 4"):
        Samples(open_dataset(root), SampleSettings())


def test_pictures_that_are_not_square_are_refused(samples, monkeypatch):
    oblong = np.zeros((7, 24, 32, 3), np.uint8)
    monkeypatch.setattr(samples.dataset, "frames", lambda *arguments: oblong)
    with pytest.raises(FoveaError, match=r"expected square pictures.*24 x 32"):
        samples.frames.frames(0, keys.IMAGES[0])


def test_a_subset_is_another_data_set_for_the_cache(samples):
    fewer = FrameSubset(samples.dataset, {0: [0, 1]})
    assert len(fewer) == 2
    assert len({fewer.fingerprint, samples.frames.fingerprint, samples.dataset.fingerprint}) == 3


@pytest.mark.parametrize("change", [{"train": 0}, {"held_out": 1}, {"share": 1.0}, {"seed": -1}])
def test_senseless_settings_are_named(change):
    with pytest.raises(FoveaError, match=f"samples.{next(iter(change))}"):
        SampleSettings(**change)
