"""Pointing and mass of word maps against masks."""

import numpy as np
import open_clip
import pytest
import torch

from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.errors import FoveaError
from fovea.lens.grounding import ask, cell, patch_cover, score, summarise
from fovea.lens.moments import Moment
from fovea.lens.nouns import Noun
from fovea.lens.word_maps import EncoderMaps, noun_map, word_spans
from fovea.tokens import Tokens


def box(side, top, bottom, left, right):
    mask = np.zeros((side, side), bool)
    mask[top:bottom, left:right] = True
    return mask


def point(grid, row, column):
    weights = np.zeros(grid)
    weights[row, column] = 1
    return weights


@pytest.mark.parametrize(("side", "grid"), [(128, (16, 16)), (224, (7, 7)), (100, (7, 9)), (10, (4, 3))])
def test_cover_adds_up_to_the_mask_whatever_side_and_grid(side, grid):
    mask = np.random.default_rng(0).random((side, side)) < 0.3
    cover = patch_cover(mask, grid)
    assert cover.shape == grid
    assert cover.min() >= 0
    assert cover.max() <= 1 + 1e-9
    assert cover.mean() == pytest.approx(mask.mean())


def test_a_map_on_the_object_hits_and_one_beside_it_does_not():
    mask = box(64, 16, 32, 32, 48)  # the patch (1, 2) of a 4 x 4 grid
    on, beside = score(point((4, 4), 1, 2), mask), score(point((4, 4), 1, 3), mask)
    assert (on["hit"], on["mass"]) == (True, pytest.approx(1))
    assert (beside["hit"], beside["mass"]) == (False, pytest.approx(0))
    assert on["area"] == pytest.approx(1 / 16) == pytest.approx(on["chance"])


def test_a_uniform_map_has_the_area_as_its_mass():
    mask = box(100, 5, 40, 13, 77)
    found = score(np.full((7, 7), 1 / 49), mask)
    assert found["mass"] == pytest.approx(found["area"])


def test_an_object_smaller_than_a_patch_is_hit_where_most_of_it_lies():
    mask = box(224, 30, 40, 2, 10)  # 8 wide, 2 rows in the patch (0, 0), 8 in (1, 0)
    assert score(point((7, 7), 1, 0), mask)["hit"]
    assert not score(point((7, 7), 0, 0), mask)["hit"]


def test_an_object_over_a_quarter_of_a_patch_is_hit_there():
    mask = box(64, 0, 16, 0, 20)  # covers (0, 0) and a quarter of (0, 1)
    assert score(point((4, 4), 0, 1), mask)["hit"]


@pytest.mark.parametrize(
    ("weights", "mask", "message"),
    [
        (np.ones((4, 4)), box(8, 0, 4, 0, 4), "sum to 1"),
        (np.full(16, 1 / 16), box(8, 0, 4, 0, 4), "grid of patches"),
        (np.full((4, 4), 1 / 16), box(8, 0, 0, 0, 0), "at least one pixel"),
    ],
)
def test_what_is_no_map_or_no_mask_is_refused(weights, mask, message):
    with pytest.raises(FoveaError, match=message):
        score(weights, mask)


BOWLS = {"bowl_1": box(128, 0, 32, 0, 32), "bowl_2": box(128, 64, 96, 64, 96)}
ON_BOWL_1, ON_BOWL_2 = point((16, 16), 1, 1), point((16, 16), 9, 9)


def ask_for(weights, masks, own=()):
    """The question for "bowl", which stands for all of `masks`."""
    labels = np.full((128, 128), -1, np.int16)
    for index, mask in enumerate(masks.values()):
        labels[mask] = index
    noun = Noun("bowl", (0,), frozenset({"bowl"}), tuple(masks), own, "target")
    scene = {"objects": list(masks), "labels": {"agentview": labels}, "observations": {}}
    goal = {"targets": frozenset(own), "destinations": frozenset()}
    moment = Moment(start=None, step=0, instruction="bowl", nouns=[noun], **goal, **scene)
    (question,) = ask(moment, {"agentview": weights[None]})
    return question


@pytest.mark.parametrize(("weights", "own"), [(ON_BOWL_1, True), (ON_BOWL_2, False)])
def test_of_several_objects_any_is_hit_and_the_task_s_own_is_told_apart(weights, own):
    asked = ask_for(weights, BOWLS, own=("bowl_1",))
    assert (asked["hit"], asked["own"], asked["instances"]) == (True, own, 2)


def test_own_is_asked_only_where_the_task_means_some_of_several_visible_objects():
    nothing = box(128, 64, 64, 0, 0)
    for masks, own, visible in (
        (BOWLS, (), 2),
        (BOWLS, ("bowl_1", "bowl_2"), 2),
        (BOWLS | {"bowl_2": nothing}, ("bowl_1",), 1),
        (BOWLS | {"bowl_3": nothing}, ("bowl_3",), 2),
    ):
        asked = ask_for(ON_BOWL_1, masks, own)
        assert (asked["hit"], asked["own"], asked["instances"]) == (True, None, visible)


@pytest.mark.parametrize(("pixels", "left_out"), [(0, "not visible"), (15, "hardly visible"), (16, None)])
def test_an_object_is_asked_for_from_16_pixels_on(pixels, left_out):
    asked = ask_for(ON_BOWL_1, {"bowl_1": box(128, 8, 9, 8, 8 + pixels)})
    assert asked["left_out"] == left_out
    assert ("hit" in asked) is (left_out is None)


def test_a_noun_that_is_not_there_or_not_read_is_left_out():
    assert ask_for(ON_BOWL_1, {})["left_out"] == "not in the scene"
    assert ask_for(np.full((16, 16), np.nan), BOWLS)["left_out"] == "not read"


def question(camera="agentview", role="target", hit=True, left_out=None, **more):
    return {
        "camera": camera, "phrase": "milk", "role": role, "seen": None, "types": ["milk"], "left_out": left_out,
        "hit": hit, "mass": 0.5, "area": 0.1, "chance": 0.2, "own": None,
    } | more  # fmt: skip


def test_summary_counts_what_was_asked_and_what_was_left_out():
    questions = [
        question(seen=True),
        question(hit=False, seen=False),
        question(role="destination", seen=True, own=False),
        question(camera="wrist", left_out="not visible"),
    ]
    found = summarise(questions)
    agent = found["agentview"]
    assert (agent["all"]["right"], agent["all"]["asked"]) == (2, 3)
    assert agent["all"]["several"] == {"asked": 1, "own": 0}
    assert set(agent["groups"]) == {
        *("target", "target, seen", "target, unseen"),
        *("destination", "destination, seen"),
    }
    assert agent["groups"]["target, unseen"]["accuracy"] == 0
    assert found["wrist"]["left_out"] == {"not visible": 1}
    assert found["wrist"]["all"]["accuracy"] is None
    low, high = cell([question()] * 20)["interval"]
    assert (round(low, 2), high) == (0.84, 1.0)


SENTENCE = "Pick up the glazed ramekin, please"


class Pieces:
    """CLIP's own tokenizer with nothing behind it."""

    def encode_text(self, sentences):
        ids = open_clip.SimpleTokenizer()(sentences)
        place = torch.arange(ids.shape[1])
        mask = (place > 0) & (place < ids.argmax(1, keepdim=True))
        return Tokens(torch.zeros(*ids.shape, 1), mask)


def test_words_that_an_encoder_splits_into_pieces_find_all_of_them():
    encoder = Pieces()
    spans = word_spans(encoder, SENTENCE)
    real = encoder.encode_text([SENTENCE]).mask[0].nonzero().flatten().tolist()
    assert [len(span) for span in spans[:3]] == [1, 1, 1]
    assert len(spans) == 6
    assert len(spans[4]) > 1
    flat = [i for span in spans for i in span]
    assert flat == sorted(set(flat))
    assert set(real) - set(flat)
    assert set(flat) < set(real)


def test_maps_of_an_encoder_are_weights_for_every_word_it_reads():
    torch.manual_seed(0)
    encoder = TinyEncoder(TinyConfig.tiny(image_size=32, max_words=5), SENTENCE.lower().split()).freeze()
    rng = np.random.default_rng(0)
    pictures = {
        f"observation.images.{key}": rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        for key in ("image", "image2")
    }
    maps = EncoderMaps(encoder).look({**pictures, "task": SENTENCE})
    assert set(maps) == {"agentview", "wrist"}
    np.testing.assert_allclose(maps["wrist"][:5].sum((1, 2)), 1, rtol=1e-5)
    assert np.isnan(maps["wrist"][5]).all()  # the sixth word is beyond what it reads
    assert noun_map(maps["wrist"], [5]) is None
    np.testing.assert_array_equal(noun_map(maps["wrist"], [4, 5]), maps["wrist"][4])
