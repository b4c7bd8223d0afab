"""Grounding in numbers: does what a noun looks at lie on the object it names?

Two measures of a map of weights over patches (they sum to one) against an object's segmentation mask:

- pointing: the patch with the largest weight lies on the object. It does if the object covers a quarter of that patch,
  or half as much of it as of the patch that it covers most (objects that are small beside the patches of an encoder);
- mass: the share of the weights that lies on the object, each patch counted by the share that the object covers.

Chance for pointing is the share of patches that count as lying on the object, for the mass the mask's share of the
picture.

Shape letters: S side of a picture in pixels, gh x gw patch grid.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea.errors import FoveaError
from fovea.evaluation.statistics import wilson
from fovea.lens.moments import Moment
from fovea.lens.nouns import ROLES, Noun
from fovea.lens.word_maps import Maps, noun_map

ON_OBJECT = 0.25
VISIBLE = 1 / 1024
"""Share of the picture that an object must fill to be asked for: 16 pixels of 128 x 128. Less is hardly visible."""

Question = dict[str, Any]
Cell = dict[str, Any]


def patch_cover(mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float64]:
    """The share of each patch that a mask (S, S) covers: (gh, gw), exact for any ratio of S and grid."""
    rows, columns = (_overlap(side, count) for side, count in zip(mask.shape, grid, strict=True))
    return rows @ mask.astype(np.float64) @ columns.T


def _overlap(side: int, count: int) -> NDArray[np.float64]:
    """What share of each of `count` equal stretches every one of `side` pixels is: (count, side), rows sum to 1."""
    ends = np.arange(1, side + 1) * count / side  # in stretches
    begins = ends - count / side
    cells = np.arange(count)[:, None]
    return np.clip(np.minimum(ends, cells + 1) - np.maximum(begins, cells), 0, None)


def score(weights: NDArray, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Pointing and mass of one map (gh, gw) against one mask (S, S).

    Returns:
        `hit`, `chance` (of a hit), `mass`, `area` (the mass that a uniform map has).

    Raises:
        FoveaError: the weights do not sum to one, or nothing is in the mask.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or not np.isclose(weights.sum(), 1, atol=1e-2):
        raise FoveaError(
            f"expected weights over a grid of patches that sum to 1, got shape {weights.shape} with sum "
            f"{weights.sum():.3f}"
        )
    if not mask.any():
        raise FoveaError("expected a mask with at least one pixel, got an empty one")
    cover = patch_cover(mask, (weights.shape[0], weights.shape[1]))
    on = cover >= min(ON_OBJECT, cover.max() / 2)
    return {
        "hit": bool(on.flat[weights.argmax()]),
        "chance": float(on.mean()),
        "mass": float((weights * cover).sum()),
        "area": float(mask.mean()),
    }


def ask(moment: Moment, maps: Maps) -> list[Question]:
    """Ask for every noun of a moment in every camera.

    Args:
        moment: the scene.
        maps: where its words look.

    Returns:
        One record each: `camera`, `phrase`, `role`, `types`, `seen` (None: see `judge_seen`), `left_out` (why the noun
        is not asked, or None), and for those that are asked `score`'s keys, `instances` (how many visible objects
        count), and `own`: where several do and the task means some of them, whether the arg-max lies on one of these.
    """
    questions = []
    for camera in maps:
        for noun in moment.nouns:
            question = {
                "camera": camera,
                "phrase": noun.phrase,
                "role": noun.role,
                "types": sorted(noun.types),
            }
            questions.append(question | {"seen": None} | _answer(moment, camera, noun, maps[camera]))
    return questions


def judge_seen(question: Question, named: frozenset[str] | None) -> Question:
    """A question that says whether robot data name its object (`named` types); None where that is not known."""
    types = question["types"]
    return question | {"seen": None if named is None or not types else bool(named & set(types))}


def _answer(moment: Moment, camera: str, noun: Noun, maps: NDArray) -> Question:
    if not noun.instances:
        return {"left_out": "not in the scene"}
    weights = noun_map(maps, noun.words)
    if weights is None:
        return {"left_out": "not read"}
    mask = moment.mask(camera, noun.instances)
    if mask.mean() < VISIBLE:
        return {"left_out": "hardly visible" if mask.any() else "not visible"}
    visible = [name for name in noun.instances if moment.mask(camera, [name]).mean() >= VISIBLE]
    own = None
    mine = moment.mask(camera, noun.own)
    if len(visible) > 1 and noun.own and len(noun.own) < len(noun.instances) and mine.mean() >= VISIBLE:
        own = score(weights, mine)["hit"]
    return {"left_out": None, **score(weights, mask), "instances": len(visible), "own": own}


def cell(questions: Sequence[Question]) -> Cell:
    """Asked questions together: `accuracy` with `right`, `asked` and Wilson's 95 % `interval`; means of the rest.

    Without a question every mean is None.
    """
    asked, right = len(questions), sum(question["hit"] for question in questions)
    several = [question["own"] for question in questions if question["own"] is not None]
    means = {
        name: round(float(np.mean([question[name] for question in questions])), 4) if asked else None
        for name in ("mass", "area", "chance")
    }
    return {
        "accuracy": round(right / asked, 4) if asked else None,
        "right": right,
        "asked": asked,
        "interval": [round(bound, 4) for bound in wilson(right, asked)],
        **means,
        "several": {"asked": len(several), "own": sum(several)},
    }


def summarise(questions: Iterable[Question]) -> dict[str, Any]:
    """All questions of one variant: camera -> {"all", "groups", "objects", "left_out"}.

    `groups`: cells of "target", "destination", "landmark", and "target, seen", "target, unseen" and so on where that is
    known; `objects`: type -> cell, a noun that
    is true of several types counting for each; `left_out`: why -> how many.
    """
    questions = list(questions)
    tables = {}
    for camera in dict.fromkeys(question["camera"] for question in questions):
        here = [question for question in questions if question["camera"] == camera]
        asked = [question for question in here if question["left_out"] is None]
        reasons = [question["left_out"] for question in here if question["left_out"] is not None]
        tables[camera] = {
            "all": cell(asked),
            "groups": _groups(asked),
            "objects": {
                kind: cell([question for question in asked if kind in question["types"]])
                for kind in sorted({kind for question in asked for kind in question["types"]})
            },
            "left_out": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        }
    return tables


def _groups(asked: Sequence[Question]) -> dict[str, Cell]:
    """Cells by role, and by role and whether robot data name the object; only those with a question."""
    cells: dict[str, list[Question]] = {}
    for role in ROLES:
        mine = [question for question in asked if question["role"] == role]
        cells[role] = mine
        cells[f"{role}, seen"] = [question for question in mine if question["seen"] is True]
        cells[f"{role}, unseen"] = [question for question in mine if question["seen"] is False]
    return {name: cell(some) for name, some in cells.items() if some}
