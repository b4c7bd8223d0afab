"""Two methods of a study beside each other: over the episodes that both played, and over the seeds of training."""

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, variance
from typing import Any, NamedTuple

from fovea.evaluation.statistics import SIGNIFICANT

Outcome = dict[str, Any]
Played = Mapping[str, bool]  # start -> success


class Scatter(NamedTuple):
    """Standard deviation of success rates between seeds of one method, and its degrees of freedom."""

    deviation: float
    freedom: int

    def p(self, difference: float, seeds: int) -> float:
        """Two-sided p of a difference between the means of two methods with so many seeds each (Student's t)."""
        from scipy.stats import t

        return float(2 * t.sf(abs(difference) / self.error(seeds), self.freedom))

    def least(self, seeds: int) -> float:
        """The least difference between two methods with so many seeds each that is told from none."""
        from scipy.stats import t

        return float(t.isf(SIGNIFICANT / 2, self.freedom)) * self.error(seeds)

    def error(self, seeds: int) -> float:
        return self.deviation * sqrt(2 / seeds)


class Comparison(NamedTuple):
    """Two methods in the same episodes.

    Attributes:
        one, other: the methods.
        rates: success of each.
        alone: episodes that each won alone.
        episodes: how many both played.
        p: exact McNemar test, two-sided, over the episodes that only one of them won.
        of_seeds: whether other seeds would tell the same, see `over_seeds`; None where that is unknown.
    """

    one: str
    other: str
    rates: tuple[float, float]
    alone: tuple[int, int]
    episodes: int
    p: float
    of_seeds: float | None

    @property
    def told(self) -> int:
        """1 where `one` is ahead by more than chance, -1 where `other` is, 0 where that cannot be told."""
        return 0 if self.p >= SIGNIFICANT else 1 if self.alone[0] > self.alone[1] else -1

    def __str__(self) -> str:
        """'68% against 29% in the same 60 episodes; 25 were won by EF-VLA alone, 2 by LF-VLA alone (p = 0.0001).'"""
        rates = " against ".join(f"{rate:.0%}" for rate in self.rates)
        return (
            f"{rates} in the same {self.episodes} episodes; {self.alone[0]} were won by {self.one} alone, "
            f"{self.alone[1]} by {self.other} alone (p = {self.p:.2g}{_verdict(self.p, self.of_seeds)})."
        )


def compare(outcomes: Sequence[Outcome], one: str, other: str, tests: Sequence[str]) -> Comparison | None:
    """Two methods episode by episode: both play the same ones with the same seeds.

    Returns:
        None where the methods share no episode.
    """
    from scipy.stats import binomtest

    a, b = (_by_seed(outcomes, method, tests) for method in (one, other))
    pairs = [
        (a[seed][start], b[seed][start])
        for seed in a.keys() & b.keys()
        for start in a[seed].keys() & b[seed].keys()
    ]
    if not pairs:
        return None
    first, second = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    rates = mean(x for x, _ in pairs), mean(y for _, y in pairs)
    of_seeds = over_seeds(outcomes, one, other, tests)
    return Comparison(one, other, rates, (first, second), len(pairs), p, of_seeds)


def _verdict(p: float, of_seeds: float | None) -> str:
    said = "" if of_seeds is None else f"; over seeds {of_seeds:.2g}"
    if p >= SIGNIFICANT:
        return f"{said}, so this may be chance"
    if of_seeds is not None and of_seeds >= SIGNIFICANT:
        return f"{said}, so other seeds may say otherwise"
    return said


def over_seeds(outcomes: Sequence[Outcome], one: str, other: str, tests: Sequence[str]) -> float | None:
    """P of the difference between two methods' mean rates, judged by the scatter of seeds; None where it is unknown."""
    a, b = (_by_seed(outcomes, method, tests) for method in (one, other))
    seeds = sorted(a.keys() & b.keys())
    starts = _common([its[seed] for its in (a, b) for seed in seeds])
    found = scatter(outcomes, tests, starts)
    if found is None:
        return None
    return found.p(_mean_rate(a, seeds, starts) - _mean_rate(b, seeds, starts), len(seeds))


def scatter(
    outcomes: Sequence[Outcome], tests: Sequence[str], starts: set[str] | None = None
) -> Scatter | None:
    """How far seeds of one method come apart, pooled over all methods that played the same starts with two or more.

    Two seeds say little about the scatter of their own method; those of all methods together say it well, if one
    method scatters about as much as another.

    Args:
        starts: those that count; None: those that all repeated methods share.

    Returns:
        None where no method has two seeds, or none of their seeds differ.
    """
    names = dict.fromkeys(o["method"] for o in outcomes)
    repeated = [its for name in names if len(its := _by_seed(outcomes, name, tests)) > 1]
    if starts is None:
        starts = _common([played for its in repeated for played in its.values()])
    rates = [
        [mean(played[start] for start in starts) for played in its.values()]
        for its in repeated
        if starts and all(starts <= played.keys() for played in its.values())
    ]
    freedom = sum(len(its) - 1 for its in rates)
    squares = sum(variance(its) * (len(its) - 1) for its in rates)
    return Scatter(sqrt(squares / freedom), freedom) if squares else None


def caveat(outcomes: Sequence[Outcome], tests: Sequence[str]) -> str:
    """What the p-values of a page are silent about, and how far seeds of one method come apart on these tests."""
    said = "A p-value below is of the policies that were trained, episode by episode, not of what another seed gives"
    found = scatter(outcomes, tests)
    if found is None:
        return f"{said}; there are no second seeds yet that differ."
    return (
        f"{said}. That is asked by the one \"over seeds\", where there are some: Student's t of the two methods' mean "
        "rates, with the scatter between seeds of one method pooled over all methods that played the same starts. It "
        f"is {100 * found.deviation:.1f} points here ({found.freedom} degrees of freedom; {', '.join(tests)}): two "
        f"methods with two seeds each are told apart from {100 * found.least(2):.0f} points on. Neither p is corrected "
        "for the number of comparisons: one in twenty is below 0.05 where nothing differs."
    )


def loss_and_success(outcomes: Sequence[Outcome], tests: Sequence[str]) -> str | None:
    """How the training loss of policies that played all of these tests ranks them; None of fewer than five."""
    from scipy.stats import spearmanr

    done = [o for o in outcomes if all(o["tests"].get(test) for test in tests)]
    losses = [o["training"]["loss"] for o in done]
    rates = [mean(bool(r["success"]) for test in tests for r in o["tests"][test]) for o in done]
    if len(done) < 5 or len(set(losses)) == 1 or len(set(rates)) == 1:
        return None
    found = spearmanr(losses, rates)
    return (
        f"Training loss and success of the {len(done)} policies have a rank correlation of {found.statistic:.2f} "
        f"(Spearman; p = {found.pvalue:.2g}; {', '.join(tests)})."
    )


def _by_seed(outcomes: Sequence[Outcome], method: str, tests: Sequence[str]) -> dict[int, dict[str, bool]]:
    """Training seed -> start -> success; seeds that played none of the tests are left out."""
    found: dict[int, dict[str, bool]] = {}
    for o in outcomes:
        if o["method"] == method:
            for record in (r for test in tests for r in o["tests"].get(test, [])):
                start = json.dumps(record["start"], sort_keys=True)
                found.setdefault(o["seed"], {})[start] = bool(record["success"])
    return found


def _common(played: Sequence[Played]) -> set[str]:
    return set.intersection(*(set(its) for its in played)) if played else set()


def _mean_rate(by_seed: Mapping[int, Played], seeds: Sequence[int], starts: set[str]) -> float:
    return mean(by_seed[seed][start] for seed in seeds for start in starts)
