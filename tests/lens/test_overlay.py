"""Heat maps over camera pictures, and the videos made of them."""

import av
import numpy as np
import pytest

from fovea.encoders.words import split_words
from fovea.errors import FoveaError
from fovea.lens.overlay import episode_frames, heat, noun_phrases, overlay, word_sheet
from fovea.lens.video import write_video

WORDS = split_words("Pick up the tomato sauce and place it in the basket.")


def _episode(frames: int = 3) -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    pictures = {
        name: rng.integers(0, 255, (frames, 24, 24, 3), dtype=np.uint8) for name in ("front", "wrist")
    }
    maps = {name: rng.random((frames, len(WORDS), 4, 4)).astype(np.float32) for name in pictures}
    return pictures, maps


def test_noun_phrases_of_an_instruction():
    assert WORDS[-1] == "basket"
    assert [[WORDS[i] for i in run] for run in noun_phrases(WORDS)] == [["tomato", "sauce"], ["basket"]]


def test_a_picture_keeps_its_light_only_where_the_words_look():
    picture = np.full((32, 32, 3), 200, dtype=np.uint8)
    corner = np.zeros((4, 4))
    corner[0, 0] = 1.0
    lit = overlay(picture, [(corner, (255, 176, 46))], side=64)
    assert lit[4, 4].mean() > 2 * lit[-4, -4].mean()
    np.testing.assert_array_equal(overlay(picture, [], side=64), np.full((64, 64, 3), 200))


def test_a_map_that_looks_nowhere_stays_dark():
    assert heat(np.full((16, 16), 1 / 256), 32).max() < 0.2


def test_frames_become_a_video_of_their_length(tmp_path):
    pictures, maps = _episode()
    frames = list(episode_frames(pictures, maps, WORDS, side=32))
    assert len(frames) == 3
    path = write_video(frames, tmp_path / "videos" / "episode.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert [frame.shape for frame in decoded] == [frame.shape for frame in frames]
    assert [path.name for path in path.parent.iterdir()] == ["episode.mp4"]


def test_word_sheet_has_a_column_for_each_word():
    pictures, maps = _episode(1)
    still = {name: frames[0] for name, frames in pictures.items()}
    sheet = word_sheet(still, {name: each[0] for name, each in maps.items()}, WORDS, side=32)
    assert sheet.shape == (2 * 34 + 8 + 2, len(WORDS) * 34 + 2, 3)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p, m: m.pop("wrist"), "cameras"),
        (lambda p, m: m.update(wrist=m["wrist"][:2]), "3 frames x 11 words"),
        (lambda p, m: p.update(wrist=p["wrist"][:0]), "same number of frames"),
        (lambda p, m: p.update(wrist=p["wrist"] / 255.0), "uint8"),
        (lambda p, m: m.update(wrist=-m["wrist"]), "negative"),
    ],
)
def test_pictures_and_maps_that_do_not_fit_are_refused(break_it, message):
    pictures, maps = _episode()
    break_it(pictures, maps)
    with pytest.raises(FoveaError, match=message):
        list(episode_frames(pictures, maps, WORDS, side=32))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [([], "at least one frame"), ([(8, 8, 3), (8, 10, 3)], "one even size"), ([(7, 8, 3)], "one even size")],
)
def test_a_video_needs_frames_of_one_even_size(tmp_path, shapes, message):
    with pytest.raises(FoveaError, match=message):
        write_video((np.zeros(shape, dtype=np.uint8) for shape in shapes), tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == []
