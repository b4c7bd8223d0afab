"""Which object every word of a sentence points at."""

import numpy as np
import pytest

from fovea.data.phrases import Lexicon, Naming

LEXICON = Lexicon(
    {
        "milk": Naming(("milk", "milk carton")),
        "ketchup": Naming(("ketchup", "ketchup bottle"), ("red",)),
        "blue_ketchup": Naming(("ketchup", "ketchup bottle"), ("blue",)),
        "basket": Naming(("basket",)),
        "wooden_cabinet": Naming(("wooden cabinet", "cabinet", "drawer"), kind="fixture"),
        "flat_stove": Naming(("stove",), kind="fixture"),
        "moka_pot": Naming(("moka pot",)),
    }
)


def owners(sentence: str) -> str:
    """One word for each word of the sentence: the first of the sorted types that it points at."""
    aligned = LEXICON.align(sentence)
    assert aligned is not None
    return " ".join(sorted(types)[0] for types in aligned.owners)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("milk", "milk"),
        ("Pick up the milk carton", "milk milk milk milk milk"),
        ("pick up the milk and place it in the basket", "milk " * 7 + "basket basket basket"),
        ("place it in the basket", "basket basket basket basket basket"),
        ("open the top drawer of the cabinet", "wooden_cabinet " * 7),
        (
            "turn on the stove and put the moka pot on it",
            "flat_stove " * 4 + "moka_pot " * 5 + "flat_stove flat_stove",
        ),
        ("put the milk in the drawer and close it", "milk " * 3 + "wooden_cabinet " * 6),
    ],
)
def test_every_word_points_at_the_object_it_belongs_to(sentence: str, expected: str) -> None:
    assert owners(sentence) == expected.strip()


def test_a_colour_narrows_what_a_noun_is_true_of() -> None:
    ketchup = LEXICON.align("the ketchup")
    blue = LEXICON.align("the blue ketchup bottle")
    assert ketchup is not None
    assert blue is not None
    assert ketchup.target == {"ketchup", "blue_ketchup"}
    assert blue.target == {"blue_ketchup"}
    assert blue.mention == (1, 2, 3)
    assert blue.owners[0] == blue.target


def test_a_sentence_without_known_objects_aligns_with_nothing() -> None:
    assert LEXICON.align("pick up the spaceship") is None


def test_drawn_sentences_are_about_their_target_and_words_are_in_the_vocabulary() -> None:
    rng, known = np.random.default_rng(0), set(LEXICON.vocabulary())
    for target in LEXICON.names:
        for _ in range(100):
            aligned = LEXICON.draw(target, list(LEXICON.names), rng)
            assert target in aligned.target
            assert set(aligned.words) <= known
            assert len(aligned.owners) == len(aligned.words)


def test_instructions_of_libero_are_aligned() -> None:
    assert "pick the milk and place it in the basket" in [a.sentence for a in LEXICON.instructions]
