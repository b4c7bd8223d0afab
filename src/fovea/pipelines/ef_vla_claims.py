"""What EF-VLA's paper finds in simulation (sections 4.2 to 4.4), asked one by one of the policies of the study."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fovea.evaluation.statistics import SIGNIFICANT
from fovea.pipelines.ladder_compare import Comparison, compare
from fovea.pipelines.ladder_tables import methods

UNSEEN = "fovea_unseen"
OFFICIAL = ("libero_object", "libero_spatial", "libero_goal")
DRAWN = tuple(f"{suite}, drawn" for suite in OFFICIAL)


@dataclass(frozen=True)
class Claim:
    """A finding of the paper.

    Attributes:
        text: the finding.
        where: what is played, for people.
        other: the method that EF-VLA is compared with; `one` is another than EF-VLA where it is given.
        tests: what both play.
        expects: whether `one` should be ahead, or both alike.
    """

    text: str
    where: str
    other: str
    tests: tuple[str, ...]
    expects: Literal["ahead", "alike"] = "ahead"
    one: str = "EF-VLA"


def _both(
    text: str, other: str, suite: str, expects: Literal["ahead", "alike"] = "ahead", one: str = "EF-VLA"
) -> list[Claim]:
    """A finding on a suite: from official states, and in layouts drawn anew."""
    return [
        Claim(text, suite, other, (suite,), expects, one),
        Claim(text, f"{suite}, drawn", other, (f"{suite}, drawn",), expects, one),
    ]


def _everywhere(text: str, other: str) -> list[Claim]:
    return [
        Claim(text, "training tasks", other, OFFICIAL),
        Claim(text, "training tasks, drawn", other, DRAWN),
        Claim(text, "unseen tasks", other, (UNSEEN,)),
    ]


def _scale(text: str, one: str, other: str) -> list[Claim]:
    """The encoders of other sizes learn libero_object and what the unseen tasks are asked after."""
    return [
        Claim(text, "libero_object, drawn", other, ("libero_object, drawn",), one=one),
        Claim(text, "unseen tasks", other, (UNSEEN,), one=one),
    ]


FEW = "EF-VLA, few pictures"
CLAIMS = [
    *_both(
        "early fusion finds the right one of similar objects, late fusion does not", "LF-VLA", "libero_object"
    ),
    *_both(
        "late fusion works as well where tasks are easily told apart", "LF-VLA", "libero_spatial", "alike"
    ),
    *_both("late fusion works as well where tasks are easily told apart", "LF-VLA", "libero_goal", "alike"),
    Claim(
        "early fusion is far ahead in unseen tasks (59 % against 28 %)", "unseen tasks", "LF-VLA", (UNSEEN,)
    ),
    *_everywhere("proprioception helps, by about ten points", "w/o f_e"),
    *_both("the pooled text helps to find the right object", "w/o f'_l", "libero_object"),
    *_both("the pooled text helps to find the right object", "w/o f'_l", "libero_goal"),
    Claim("the pooled text helps in unseen tasks (59 % against 49 %)", "unseen tasks", "w/o f'_l", (UNSEEN,)),
    *_both(
        "vision from scratch does as well on what was trained",
        "w/o CLIP vision",
        "libero_object",
        "alike",
        FEW,
    ),
    *_both("a finetuned encoder is worse on what was trained", "finetuned CLIP", "libero_object", one=FEW),
    *_scale("a larger encoder is better (Fig. 5)", "EF-VLA, large encoder", "EF-VLA"),
    *_scale("a smaller encoder is worse (Fig. 5)", "EF-VLA", "EF-VLA, small encoder"),
]
HOLDS, REVERSED, UNKNOWN, ASKED_LATER = "holds", "does not hold", "cannot be told", "not trained yet"


def verdict(claim: Claim, found: Comparison | None) -> str:
    """Whether a finding holds here; alike is what nothing speaks against."""
    if found is None:
        return ASKED_LATER
    if claim.expects == "alike":
        judged = REVERSED if found.told else "nothing speaks against it"
    else:
        judged = {1: HOLDS, 0: UNKNOWN, -1: REVERSED}[found.told]
    unsure = found.told and found.of_seeds is not None and found.of_seeds >= SIGNIFICANT
    return f"{judged} for these seeds" if unsure else judged


def claims(done: Sequence[dict[str, Any]]) -> list[str]:
    """A section of the page: every finding, both success rates, and whether it holds here. Empty with one method."""
    if len(methods(done)) == 1:
        return []
    rows, said = [], Counter[str]()
    for claim in CLAIMS:
        found = compare(done, claim.one, claim.other, claim.tests)
        judged = verdict(claim, found)
        said[judged] += 1
        numbers = "-"
        if found is not None:
            rates = " against ".join(f"{rate:.0%}" for rate in found.rates)
            numbers = f"{rates} of the same {found.episodes}, p = {found.p:.2g}"
            if found.told and found.of_seeds is not None:
                numbers += f", over seeds {found.of_seeds:.2g}"
        names = f"{claim.one} and {claim.other}"
        rows.append(f"| {claim.text} | {names} | {claim.where} | {numbers} | {judged} |")
    counted = ", ".join(f"{count} {judged}" for judged, count in said.most_common())
    return [
        "## The paper's findings",
        "",
        f"{len(CLAIMS)} rows: {counted}.",
        "A finding holds where the two methods come apart in its direction by more than chance (p below 0.05, episode",
        'by episode), and "for these seeds" where p over seeds is not below 0.05 too. "Cannot be told" is no finding',
        "against it: few episodes tell only large differences apart.",
        "",
        "| the paper finds | methods | where | success here | here it |",
        "|---|---|---|---|---|",
        *rows,
    ]
