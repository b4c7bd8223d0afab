import numpy as np
import pytest
import torch

from fovea.data import keys
from fovea.data.windows import Window, WindowSource
from fovea.errors import FoveaError

T, H = 5, 4


@pytest.fixture
def source(dataset):
    return WindowSource(dataset, context=T, horizon=H)


def test_inner_window_holds_its_slice(source, dataset):
    episode = dataset.episodes[1]
    batch = source.batch([Window(episode, 3)])
    first = episode.start + 3
    np.testing.assert_array_equal(batch[keys.STATE][0], dataset.state[first : first + T])
    np.testing.assert_array_equal(batch[keys.ACTION][0], dataset.action[first : first + T + H - 1])
    assert not batch["observation.state_is_pad"].any()
    assert not batch["action_is_pad"].any()
    assert batch["task"] == [episode.task]
    expected = dataset.frames(1, keys.IMAGES[1])[3 : 3 + T].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(batch[keys.IMAGES[1]][0], expected)


def test_end_of_episode_repeats_the_last_step_and_marks_it(source, dataset):
    episode = dataset.episodes[0]
    n = len(episode)
    batch = source.batch([Window(episode, n - 2)])
    assert batch["observation.state_is_pad"][0].tolist() == [False, False, True, True, True]
    assert batch["action_is_pad"][0].tolist() == [False, False] + [True] * 6
    for step in range(1, T):
        np.testing.assert_array_equal(batch[keys.STATE][0, step], dataset.state[episode.stop - 1])
    np.testing.assert_array_equal(batch[keys.ACTION][0, -1], dataset.action[episode.stop - 1])


def test_start_of_episode_repeats_the_first_step_and_marks_it(dataset):
    source = WindowSource(dataset, context=T, horizon=H, lead=T - 1)
    episode = dataset.episodes[1]
    batch = source.batch([Window(episode, -3)])
    assert batch["observation.state_is_pad"][0].tolist() == [True, True, True, False, False]
    assert batch["action_is_pad"][0].tolist() == [True] * 3 + [False] * 5
    np.testing.assert_array_equal(batch[keys.STATE][0, 0], dataset.state[episode.start])
    np.testing.assert_array_equal(batch[keys.STATE][0, 4], dataset.state[episode.start + 1])


def test_frames_of_a_window_may_be_several_steps_apart(dataset):
    source = WindowSource(dataset, context=3, horizon=H, stride=2)
    episode = dataset.episodes[1]
    batch = source.batch([Window(episode, 3)])
    first = episode.start + 3
    np.testing.assert_array_equal(batch[keys.STATE][0], dataset.state[[first, first + 2, first + 4]])
    np.testing.assert_array_equal(batch[keys.ACTION][0], dataset.action[first : first + 4 + H])
    pictures = dataset.frames(1, keys.IMAGES[0])[[3, 5, 7]].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(batch[keys.IMAGES[0]][0], pictures)
    assert len(source) == sum(len(e) for e in dataset.episodes)  # every step begins one
    last = source.batch([Window(episode, len(episode) - 3)])
    assert last["observation.state_is_pad"][0].tolist() == [False, False, True]
    assert last["action_is_pad"][0].tolist() == [False] * 3 + [True] * (H + 1)


def test_windows_cover_the_chosen_episodes_only(dataset):
    source = WindowSource(dataset, episodes=dataset.select("train"), context=T, horizon=H)
    windows = [source[number] for number in range(len(source))]
    assert [window.start for window in windows] == [*range(9), *range(14)]
    assert {window.episode.index for window in windows} == {0, 1}
    contained = WindowSource(dataset, context=T, horizon=H, tail=0)
    assert [contained[number].start for number in range(len(contained))] == [*range(5), *range(10), *range(3)]


def test_sampling_depends_on_seed_and_step_only(source, dataset):
    again = WindowSource(dataset, context=T, horizon=H)
    assert source.sample(1, 500, 8) == again.sample(1, 500, 8)
    assert source.sample(1, 500, 8) != source.sample(1, 501, 8)
    assert source.sample(1, 500, 8) != source.sample(2, 500, 8)
    assert source.spread(6) == again.spread(6)
    assert len(source.spread(10_000)) == len(source)


def test_labels_before_label_from_are_masked(dataset):
    from dataclasses import replace

    episode = replace(dataset.episodes[0], label_from=2)
    source = WindowSource(dataset, episodes=[episode], context=T, horizon=H)
    batch = source.batch([Window(episode, 0)])
    assert batch["action_is_pad"][0].tolist() == [True, True] + [False] * 6
    assert not batch["observation.state_is_pad"].any()


def test_shapes_and_types(source):
    batch = source.batch(source.sample(0, 0, 3))
    assert batch[keys.STATE].shape == (3, T, 8)
    assert batch[keys.STATE].dtype == torch.float32
    assert batch[keys.ACTION].shape == (3, T + H - 1, 7)
    assert batch[keys.IMAGES[0]].shape == (3, T, 3, 32, 32)
    assert batch[keys.IMAGES[0]].dtype == torch.uint8


def test_bad_requests(dataset):
    with pytest.raises(FoveaError, match="at least one episode"):
        WindowSource(dataset, episodes=[])
    with pytest.raises(FoveaError, match="lead"):
        WindowSource(dataset, context=4, lead=4)
