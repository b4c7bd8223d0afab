"""Two data sets as one source of windows."""

import numpy as np
import pytest
import torch

from fovea.data import keys
from fovea.data.dataset import open_dataset
from fovea.data.joint import JointSource
from fovea.data.windows import WindowSource
from fovea.errors import FoveaError

SIZES = {"context": 5, "horizon": 4}


@pytest.fixture
def sources(dataset, dataset_copy):
    other = open_dataset(dataset_copy)
    other.state[:] += 100.0  # so that one can tell whose rows they are
    return [
        WindowSource(dataset, episodes=dataset.episodes[:2], **SIZES),
        WindowSource(other, episodes=other.episodes[1:], **SIZES),
    ]


def test_every_window_of_every_source_is_drawn_from(sources):
    joint = JointSource(sources)
    assert len(joint) == len(sources[0]) + len(sources[1])
    windows = [joint[number] for number in range(len(joint))]
    assert [w.source for w in windows] == [0] * len(sources[0]) + [1] * len(sources[1])
    assert {(w.source, w.episode.index, w.start) for w in windows} == {
        (k, source[n].episode.index, source[n].start)
        for k, source in enumerate(sources)
        for n in range(len(source))
    }


def test_row_b_of_a_batch_belongs_to_window_b(sources):
    joint = JointSource(sources)
    windows = joint.sample(seed=3, step=7, count=12)
    assert {w.source for w in windows} == {0, 1}
    batch = joint.batch(windows)
    for row, window in enumerate(windows):
        alone = sources[window.source].batch([window])
        assert batch["task"][row] == alone["task"][0]
        for key in (keys.STATE, keys.ACTION, "action_is_pad", *keys.IMAGES):
            assert torch.equal(batch[key][row], alone[key][0]), key
    first = np.array([window.source == 1 for window in windows])
    assert (batch[keys.STATE][:, 0, 0].numpy() > 50).tolist() == first.tolist()


def test_sampling_depends_on_seed_and_step_only(sources):
    assert JointSource(sources).sample(1, 5, 8) == JointSource(sources).sample(1, 5, 8)
    assert JointSource(sources).sample(1, 5, 8) != JointSource(sources).sample(1, 6, 8)


def test_sources_that_do_not_fit_together_are_refused(dataset):
    short = WindowSource(dataset, context=5, horizon=3)
    with pytest.raises(FoveaError, match="agree in sizes"):
        JointSource([WindowSource(dataset, **SIZES), short])
    with pytest.raises(FoveaError, match="at least one data set"):
        JointSource([])
