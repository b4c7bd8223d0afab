"""Which objects of a scene an instruction names, word by word, and what the task does with them.

A noun phrase is found by longest match among the names of LIBERO's object types (`fovea.sim.catalogue`), and stands
for every instance in the scene that it is true of: "the black bowl" for both black bowls. Which of them is meant
("between the plate and the ramekin") is more than nouns say, so either counts; the task's own is remembered.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from fovea.data.phrases import Lexicon
from fovea.encoders.words import split_words
from fovea.evaluation.pointing import catalogue_lexicon
from fovea.sim.bddl import is_of, object_type
from fovea.sim.catalogue import CATALOGUE

Role = Literal["target", "destination", "landmark"]
ROLES: tuple[Role, ...] = ("target", "destination", "landmark")


@dataclass(frozen=True)
class Noun:
    """A noun phrase of an instruction, and what it stands for in a scene.

    Attributes:
        phrase: its words.
        words: their positions in `split_words(instruction)`.
        types: object types in the scene that it is true of; empty if it names something that is not there.
        instances: the scene's objects of these types, such as ("akita_black_bowl_1", "akita_black_bowl_2").
        own: those among them that the task's goal speaks of.
        role: `target`: the goal moves, opens or switches it; `destination`: the goal puts something there;
            `landmark`: it only says which one or where.
    """

    phrase: str
    words: tuple[int, ...]
    types: frozenset[str]
    instances: tuple[str, ...]
    own: tuple[str, ...]
    role: Role


def nouns(instruction: str, instances: Sequence[str], goal: Iterable[Sequence[str]]) -> list[Noun]:
    """The noun phrases of an instruction, in order.

    Args:
        instruction: the sentence.
        instances: names of the scene's objects and fixtures, such as "milk_1".
        goal: LIBERO's goal predicates, such as [["in", "milk_1", "basket_1_contain_region"]].

    Non-obvious: a drawer is part of its cabinet, whose whole mask counts. A word that is only a part of an object's
    name ("bottle", "moka") stands for the objects in the scene whose names have it.
    """
    words = split_words(instruction)
    targets, destinations = goal_objects(goal, instances)
    found: list[Noun] = []
    for start, stop, known in _mentions(words, instances):
        mine = tuple(name for name in instances if object_type(name) in known)
        own = tuple(name for name in mine if name in targets | destinations)
        earlier = any(noun.instances == mine for noun in found)
        role = _role(targets & set(mine), destinations & set(mine), earlier)
        types = frozenset(map(object_type, mine))
        found.append(Noun(" ".join(words[start:stop]), tuple(range(start, stop)), types, mine, own, role))
    return found


def _role(moved: set[str], holding: set[str], earlier: bool) -> Role:
    """What the goal does with a noun's objects, some of which it moves or switches and some of which receive things.

    A stove that is switched on and gets a pot is a destination; of two bowls that are stacked, the first one named
    is the target.
    """
    if holding and (earlier or moved <= holding):
        return "destination"
    return "target" if moved else "landmark"


def goal_objects(goal: Iterable[Sequence[str]], instances: Sequence[str]) -> tuple[set[str], set[str]]:
    """What a goal moves or switches, and what receives things; a region belongs to the object it is named after."""
    places: tuple[set[str], set[str]] = (set(), set())
    for _, *arguments in goal:
        for place, argument in zip(places, arguments, strict=False):
            place.update(name for name in instances if is_of(argument, name))
    return places


def _mentions(words: Sequence[str], instances: Sequence[str]) -> list[tuple[int, int, frozenset[str]]]:
    lexicon = _lexicon()
    words = [_singular(word) for word in words]
    found = lexicon.mentions(words)
    covered = {i for start, stop, _ in found for i in range(start, stop)}
    present = set(map(object_type, instances)) & set(lexicon.names)
    for i, word in enumerate(words):
        types = frozenset(kind for kind in present if word in _noun_words(kind))
        if i not in covered and types:
            found.append((i, i + 1, types))
    return sorted(found, key=lambda mention: mention[0])


@cache
def _lexicon() -> Lexicon:
    return catalogue_lexicon(list(CATALOGUE))


@cache
def _noun_words(kind: str) -> frozenset[str]:
    """The words of a type's names, without colours and without "of", "and"."""
    naming = _lexicon().names[kind]
    every = {word for noun in naming.nouns for word in split_words(noun)}
    colours = {word for colour in naming.colours for word in split_words(colour)}
    return frozenset(every - colours - {"of", "and"})


@cache
def _known_words() -> frozenset[str]:
    return frozenset(word for phrase in _lexicon().phrases for word in phrase)


def _singular(word: str) -> str:
    """ "pots" -> "pot" where only "pot" is known."""
    known = _known_words()
    return word[:-1] if word not in known and word.endswith("s") and word[:-1] in known else word
