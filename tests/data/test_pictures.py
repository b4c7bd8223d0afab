import numpy as np
import pytest

from fovea.data import keys
from fovea.data.pictures import Pictures
from fovea.errors import FoveaError

CAMERA = keys.IMAGES[0]
FRAME = 32 * 32 * 3


def test_part_of_an_episode_is_decoded(dataset):
    whole = dataset.frames(1, CAMERA)
    np.testing.assert_array_equal(dataset.frames(1, CAMERA, 4, 6), whole[4:10])
    np.testing.assert_array_equal(dataset.frames(1, CAMERA, 13), whole[13:])
    for first, count in ((0, 15), (13, 2), (14, None), (-1, 3), (3, 0)):
        with pytest.raises(FoveaError, match=r"frames of episode 1 in 0\.\.13"):
            dataset.frames(1, CAMERA, first, count)


@pytest.mark.parametrize("memory", [0, 10 * FRAME, 1000 * FRAME])
def test_pictures_are_the_same_however_much_is_remembered(dataset, memory):
    pictures = Pictures(dataset, memory)
    for _ in range(2):
        for episode in dataset.episodes:
            steps = np.array([5, 2, 2, 3])
            expected = dataset.frames(episode.index, CAMERA)[steps]
            np.testing.assert_array_equal(pictures.frames(episode, CAMERA, steps), expected)


def test_memory_is_kept_to(dataset, monkeypatch):
    decoded = []
    frames = dataset.frames

    def counted(episode, camera, first=0, count=None):
        part = frames(episode, camera, first, count)
        decoded.append((episode, len(part)))
        return part

    monkeypatch.setattr(dataset, "frames", counted)
    pictures = Pictures(dataset, 16 * FRAME)  # episodes have 9, 14 and 7 frames
    for _ in range(2):
        for episode in dataset.episodes:
            pictures.frames(episode, CAMERA, np.array([2, 4]))
    assert decoded == [(0, 9), (1, 3), (2, 7), (1, 3)]
