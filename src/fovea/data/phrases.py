"""Sentences about objects, and which object every word of them points at.

A lexicon knows what each object type is called. From that it makes sentences of many forms for training and
evaluation, and it aligns any sentence, its own or LIBERO's: noun phrases are found by longest match, "it" is
what was named first, and every other word belongs to the noun phrase that it leads up to. So in "pick up the
milk and place it in the basket" the words "pick up the milk and place it" point at the milk and "in the basket"
at the basket.

A phrase is true of every type that it describes: "ketchup" of the ordinary and of the blue one, "blue ketchup"
of the blue one only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

import numpy as np

from fovea.encoders.words import split_words

PICK = (
    "pick up the {a}",
    "pick the {a}",
    "grasp the {a}",
    "grab {a}",
    "lift the {a}",
    "take the {a}",
    "get me the {a}",
    "hold the {a}",
    "reach for the {a}",
    "move to the {a}",
    "pick up a {a}",
)
SHOW = (
    "{a}",
    "the {a}",
    "a {a}",
    "a photo of the {a}",
    "a photo of a {a}",
    "a picture of the {a}",
    "this is the {a}",
    "where is the {a}",
    "find the {a}",
    "look at the {a}",
)
PLACE = (
    "pick up the {a} and place it in the {b}",
    "pick the {a} and place it in the {b}",
    "pick up the {a} and place it on the {b}",
    "pick the {a} and place it on the {b}",
    "pick up the {a} and put it in the {b}",
    "pick up the {a} next to the {b}",
    "put the {a} in the {b}",
    "put the {a} on the {b}",
    "put the {a} on top of the {b}",
    "place the {a} inside the {b}",
    "place the {a} on the {b}",
    "move the {a} to the {b}",
    "push the {a} to the front of the {b}",
    "grab {a} and put it into {b}",
    "lift the {a} and set it on the {b}",
    "take the {a} from the {b}",
    "put the {a} to the left of the {b}",
    "put the {a} to the right of the {b}",
    "drop the {a} into the {b}",
    "stack the {a} on the {b}",
)
OPERATE = (
    "open the {a}",
    "close the {a}",
    "turn on the {a}",
    "turn off the {a}",
    "switch on the {a}",
    "open the top drawer of the {a}",
    "open the middle drawer of the {a}",
    "close the bottom drawer of the {a}",
    "open the top drawer of the {a} and put the {b} in it",
    "turn on the {a} and put the {b} on it",
)
_PRONOUNS = frozenset({"it", "them"})
_OPERATING_VERBS = frozenset({"open", "close"})


@dataclass(frozen=True)
class Naming:
    """What an object type is called.

    Attributes:
        nouns: its noun phrases, LIBERO's own wording first.
        colours: adjectives that are true of it (may be empty).
        kind: "graspable", "container" (things are put there) or "fixture" (furniture; opened or switched).
    """

    nouns: tuple[str, ...]
    colours: tuple[str, ...] = ()
    kind: str = "graspable"


@dataclass(frozen=True)
class Aligned:
    """A sentence with what each of its words points at.

    Attributes:
        sentence: as written.
        words: its words, as the tokenizer splits them.
        owners: one set of types a word (the types that the phrase it belongs to is true of).
        mention: positions of the words that name the target, the first object mentioned.
    """

    sentence: str
    words: tuple[str, ...]
    owners: tuple[frozenset[str], ...]
    mention: tuple[int, ...]

    @property
    def target(self) -> frozenset[str]:
        """The types of the object that the sentence is about."""
        return self.owners[self.mention[0]]


class Lexicon:
    """All phrases for a set of object types.

    Args:
        names: object type -> naming.
    """

    def __init__(self, names: Mapping[str, Naming]) -> None:
        self.names = dict(names)
        self.phrases: dict[tuple[str, ...], frozenset[str]] = {}
        for kind in self.names:
            for phrase in (*self.nouns(kind), *self.coloured(kind)):
                key = tuple(split_words(phrase))
                self.phrases[key] = self.phrases.get(key, frozenset()) | {kind}
        self._longest = max(map(len, self.phrases), default=0)

    def nouns(self, kind: str) -> list[str]:
        """Noun phrases of a type, LIBERO's first."""
        return list(self.names[kind].nouns)

    def coloured(self, kind: str) -> list[str]:
        """Colour + noun phrases of a type; nouns that already say the colour are left alone."""
        naming = self.names[kind]
        return [
            f"{colour} {noun}"
            for colour in naming.colours
            for noun in naming.nouns
            if colour not in split_words(noun)
        ]

    def align(self, sentence: str) -> Aligned | None:
        """Say which types every word points at; None if the sentence names no known object."""
        words = tuple(split_words(sentence))
        mentions = self.mentions(words)
        if not mentions:
            return None
        owners: list[frozenset[str] | None] = [None] * len(words)
        for start, stop, types in mentions:
            owners[start:stop] = [types] * (stop - start)
        for i, word in enumerate(words):
            if word in _PRONOUNS and owners[i] is None:
                before = [types for start, _, types in mentions if start < i] or [mentions[0][2]]
                owners[i] = before[-1] if words[i - 1] in _OPERATING_VERBS else before[0]
        following = None
        for i in reversed(range(len(words))):  # a word belongs to the phrase that it leads up to ...
            following = owners[i] = owners[i] or following
        filled: list[frozenset[str]] = []
        for owner in owners:  # ... and trailing words to the last phrase
            filled.append(owner if owner is not None else filled[-1])
        start, stop, _ = mentions[0]
        return Aligned(sentence, words, tuple(filled), tuple(range(start, stop)))

    def mentions(self, words: Sequence[str]) -> list[tuple[int, int, frozenset[str]]]:
        """The noun phrases among words, by longest match: (first, last + 1, the types they are true of)."""
        found, i = [], 0
        while i < len(words):
            for length in range(min(self._longest, len(words) - i), 0, -1):
                types = self.phrases.get(tuple(words[i : i + length]))
                if types:
                    found.append((i, i + length, types))
                    i += length
                    break
            else:
                i += 1
        return found

    @cached_property
    def instructions(self) -> list[Aligned]:
        """LIBERO's and LIBERO-PRO's own instructions that name an object of this lexicon."""
        text = resources.files("fovea.data").joinpath("libero_instructions.txt").read_text()
        aligned = (self.align(line) for line in text.splitlines())
        return [a for a in aligned if a is not None]

    def vocabulary(self) -> list[str]:
        """Every word of every phrase, template and instruction, sorted."""
        words: set[str] = set().union(*self.phrases)
        for template in (*PICK, *SHOW, *PLACE, *OPERATE):
            words.update(split_words(template.replace("{a}", " ").replace("{b}", " ")))
        for instruction in self.instructions:
            words.update(instruction.words)
        return sorted(words)

    def draw(self, target: str, others: Iterable[str], rng: np.random.Generator) -> Aligned:
        """Draw a sentence about `target`; its second object, if any, is one of `others`."""
        if rng.random() < 0.15:
            own = self._instructions_about.get(target)
            if own:
                return own[rng.integers(len(own))]
        others = [other for other in others if other != target]
        forms: tuple[str, ...] = PICK + PLACE if others else PICK
        if self.names[target].kind == "fixture":
            drawers = "drawer" in self.names[target].nouns
            forms = tuple(f for f in OPERATE if (others or "{b}" not in f) and (drawers or "drawer" not in f))
        if rng.random() < 0.3:
            forms = SHOW
        template = forms[rng.integers(len(forms))]
        fillers = {"a": self._phrase(target, rng)}
        if "{b}" in template:
            places = [other for other in others if self.names[other].kind != "graspable"]
            choice = places if places and rng.random() < 0.5 else others
            fillers["b"] = self._phrase(choice[rng.integers(len(choice))], rng)
        aligned = self.align(template.format(**fillers))
        assert aligned is not None  # its phrases come from this lexicon
        return aligned

    def _phrase(self, kind: str, rng: np.random.Generator) -> str:
        coloured, nouns = self.coloured(kind), self.nouns(kind)
        if coloured and rng.random() < 0.5:
            return str(coloured[rng.integers(len(coloured))])
        return nouns[0] if rng.random() < 0.5 else str(nouns[rng.integers(len(nouns))])

    @cached_property
    def _instructions_about(self) -> dict[str, list[Aligned]]:
        about: dict[str, list[Aligned]] = {}
        for aligned in self.instructions:
            for kind in aligned.target:
                about.setdefault(kind, []).append(aligned)
        return about
