"""The catalogue: LIBERO can build what it names, and words tell apart what eyes can tell apart."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from fovea.sim.catalogue import CATALOGUE, GROCERIES

# the same picture at another size, or under another name: no word can tell them from the plain type
LOOKALIKES = {"bigger_alphabet_soup", "bigger_milk", "new_salad_dressing"}


def test_every_type_is_one_that_libero_registers():
    from libero.libero.envs.objects import OBJECTS_DICT

    assert not set(CATALOGUE) - set(OBJECTS_DICT)


def test_every_entry_can_be_named_and_labelled():
    assert len(CATALOGUE) < 255, "labels are uint8 and 255 is the background"
    for name, entry in CATALOGUE.items():
        assert entry.nouns, name
        assert entry.kind in ("graspable", "container", "fixture"), name
        for phrase in (*entry.nouns, *entry.colours):
            assert re.fullmatch(r"[a-z]+( [a-z]+)*", phrase), f"{name}: {phrase!r}"


def test_types_that_share_every_noun_differ_in_colour():
    distinct = {name: entry for name, entry in CATALOGUE.items() if name not in LOOKALIKES}
    for (one, a), (other, b) in itertools.combinations(distinct.items(), 2):
        assert (a.nouns, a.colours) != (b.nouns, b.colours), f"{one} and {other}"
    for name in LOOKALIKES:
        assert not CATALOGUE[name].colours, f"{name} has no colour of its own"


def test_groceries_are_the_objects_of_libero_object_under_its_own_words():
    from libero.libero import get_libero_path

    tasks = Path(get_libero_path("bddl_files"), "libero_object").glob("*.bddl")
    spoken = {re.search(r"\(:language Pick the (.+) and place", task.read_text())[1] for task in tasks}
    assert {CATALOGUE[name].nouns[0] for name in GROCERIES} == spoken
