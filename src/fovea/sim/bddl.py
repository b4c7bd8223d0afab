"""LIBERO's task files (BDDL text): what their names say, and edits: another sentence, other object types or target."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fovea.errors import FoveaError


def object_type(instance: str) -> str:
    """ "akita_black_bowl_2" -> "akita_black_bowl"."""
    return instance.rpartition("_")[0]


def is_of(place: str, thing: str) -> bool:
    """Whether a place ("basket_1", "basket_1_contain_region") is a thing ("basket_1") or a region named after it."""
    return place == thing or place.startswith(f"{thing}_")


def say(text: str, language: str) -> str:
    """The task with another instruction."""
    return re.sub(r"\(:language[^()]*\)", f"(:language {language})", text, count=1)


def retype(text: str, types: Mapping[str, str]) -> str:
    """The task with other object types: the new object stands where the old one stood, and goals follow.

    Args:
        text: BDDL text.
        types: old type -> new type, such as {"white_bowl": "akita_black_bowl"}.

    Raises:
        FoveaError: a type that the scene lacks, or a new one that it has already.
    """
    for old, new in types.items():
        if not re.search(rf"- {old}\b", text) or re.search(rf"- {new}\b", text):
            raise FoveaError(f"expected a scene with {old} and without {new} to replace the one by the other")
        text = re.sub(rf"- {old}\b", f"- {new}", text)
        # instances and their parts (white_bowl_1, white_bowl_1_contain_region), not regions (white_bowl_init_region)
        text = re.sub(rf"(?<!\w){old}(?=_\d)", new, text)
    return text


def retarget(text: str, old: str, new: str) -> str:
    """The task with another object or place in its goal, such as "milk_1" -> "ketchup_1".

    Raises:
        FoveaError: the old one is not in the goal, or the scene lacks the new one.
    """
    declared = [word for name in ("objects", "fixtures") for word in text[slice(*_block(text, name))].split()]
    if new not in declared:
        raise FoveaError(f"expected {new} among the scene's objects and fixtures")
    if old not in re.findall(r"\w+", text[slice(*_block(text, "goal"))]):
        raise FoveaError(f"expected {old} in the task's goal")
    for name in ("obj_of_interest", "goal"):
        start, end = _block(text, name)
        text = text[:start] + re.sub(rf"(?<!\w){old}(?!\w)", new, text[start:end]) + text[end:]
    return text


def move(text: str, region: str, box: tuple[float, float, float, float]) -> str:
    """The task with a region elsewhere: low x, low y, high x, high y in metres, relative to the table's centre.

    Raises:
        FoveaError: no such region.
    """
    corners = " ".join(f"{number:g}" for number in box)
    moved, count = re.subn(rf"(\({region}\s[^)]*\)\s*\(:ranges\s*\(\s*)\([^)]*\)", rf"\1({corners})", text)
    if count != 1:
        raise FoveaError(f"expected one region {region} with a range of its own, found {count}")
    return moved


def instances(text: str) -> list[str]:
    """Names of the task's objects and fixtures, such as "milk_1"; the workspace ("main_table") is none."""
    declared = [word for name in ("fixtures", "objects") for word in text[slice(*_block(text, name))].split()]
    return [word.strip("()") for word in declared if re.search(r"_\d+\)*$", word)]


def _block(text: str, name: str) -> tuple[int, int]:
    """Where the block (:name ...) begins and ends."""
    start = text.index(f"(:{name}")
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if depth == 0:
            return start, end + 1
    raise FoveaError(f"the block (:{name} is not closed")
