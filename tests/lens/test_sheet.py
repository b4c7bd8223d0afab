"""Picture sheets: what is written below a tile."""

import numpy as np

from fovea.lens.sheet import Tile, sheet

GREY = np.full((16, 16, 3), 90, np.uint8)


def drawn(caption, side=96):
    """A sheet of one tile: its height, and whether there is writing in each of two lines below the tile."""
    picture = np.asarray(sheet("", ["scene"], [[Tile(GREY, caption)]], side)).astype(int)
    below = picture[3 * 13 + side :]
    return picture.shape[0], [(line.max(axis=(0, 2)) > 150).any() for line in (below[:13], below[13:26])]


def test_a_long_caption_goes_on_in_a_second_line():
    short, long = drawn("layer 1: 20%"), drawn("robot0_eye_in_hand: the black bowl")
    assert long[0] == short[0] + 13  # a line more
    assert short[1][0]
    assert long[1] == [True, True]


def test_all_rows_of_a_sheet_are_as_high_as_its_longest_caption_asks():
    rows = [[Tile(GREY, "short")], [Tile(GREY, "robot0_eye_in_hand: the black bowl")]]
    assert sheet("", ["scene"], rows, 96).height == sheet("", ["scene"], rows[::-1], 96).height
    assert sheet("", ["scene"], [], 96).height > 0
