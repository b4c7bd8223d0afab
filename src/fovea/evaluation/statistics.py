"""How sure a success rate is: Wilson intervals, and tables of episode records by task or layout."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any

from fovea.errors import FoveaError

Record = Mapping[str, Any]
SIGNIFICANT = 0.05  # p below which a difference is not put down to chance


def wilson(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: honest at 0 %, at 100 % and for few episodes.

    With p = successes / episodes and z the normal quantile of the confidence (1.96 for 95 %), the interval is
    (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4).

    Returns:
        Lower and upper bound, both in [0, 1]. Without a single episode nothing is known: (0, 1).
    """
    if episodes < 0 or not 0 <= successes <= episodes:
        raise FoveaError(f"expected 0 <= successes <= episodes, got {successes} of {episodes}")
    if not 0 < confidence < 1:
        raise FoveaError(f"expected a confidence between 0 and 1 (0.95 for 95 %), got {confidence}")
    if episodes == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, shrink = successes / episodes, 1 + z * z / episodes
    centre = (rate + z * z / (2 * episodes)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / episodes + z * z / (4 * episodes * episodes)) / shrink
    low = (
        0.0 if successes == 0 else max(0.0, centre - half)
    )  # the ends are exact, rounding must not blur them
    high = 1.0 if successes == episodes else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class SuccessRate:
    """Successes out of episodes, and the interval the true rate lies in with 95 % confidence."""

    successes: int
    episodes: int

    @property
    def rate(self) -> float:
        """Share of successes in [0, 1]; NaN without an episode."""
        return self.successes / self.episodes if self.episodes else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.successes, self.episodes)

    def to_dict(self) -> dict[str, Any]:
        """JSON form: `rate` (null without an episode), `successes`, `episodes`, `interval` [low, high]."""
        rate = round(self.rate, 4) if self.episodes else None
        return {
            "rate": rate,
            "successes": self.successes,
            "episodes": self.episodes,
            "interval": [round(bound, 4) for bound in self.interval],
        }

    def __str__(self) -> str:
        if not self.episodes:
            return "no episodes"
        low, high = self.interval
        return f"{self.rate:.0%} ({self.successes}/{self.episodes}, 95 % interval {low:.0%}-{high:.0%})"


def success_rate(records: Iterable[Record]) -> SuccessRate:
    """The success rate of episode records."""
    outcomes = [bool(record["success"]) for record in records]
    return SuccessRate(sum(outcomes), len(outcomes))


NEAR = 0.15  # metres from an object's centre to the gripper: a bottle is held some 10 cm from its own


def grounding(records: Iterable[Record]) -> dict[str, Any]:
    """Did the policy go to the object that the instruction names, whether or not it then succeeded?

    These tell apart "cannot see which" from "cannot hold": a policy that closes its gripper beside the named
    object but misses it is grounded and clumsy, one that neatly lifts the wrong object is not grounded. Tasks
    whose goal moves no object (a drawer, a stove) do not count.

    Returns:
        `lifted_right`: of the episodes in which something was lifted first, those with the named object;
        `closed_right`: of the episodes in which the gripper closed, those with the named object nearest;
        `closed_near`: of all episodes, those in which it first closed within `NEAR` of the named object (in a scene of
        three objects the named one is soon the nearest); all three as `SuccessRate.to_dict()`.
        `close_distance`: median distance in metres from the gripper to the nearest object when it first closed, or
        None.
    """
    records = list(records)
    lifted, closed = (
        [event for record in records if (event := record[key]) and event["right"] is not None]
        for key in ("first_lifted", "first_close")
    )
    asked = [record for record in records if record["final"]["gripper_to_target"] is not None]
    near = [
        event for record in asked if (event := record["first_close"]) and event["target_distance"] <= NEAR
    ]
    return {
        "lifted_right": SuccessRate(sum(event["right"] for event in lifted), len(lifted)).to_dict(),
        "closed_right": SuccessRate(sum(event["right"] for event in closed), len(closed)).to_dict(),
        "closed_near": SuccessRate(len(near), len(asked)).to_dict(),
        "close_distance": round(median(event["distance"] for event in closed), 4) if closed else None,
    }


ENDINGS = ("success", "held, not delivered", "named object not lifted", "another object", "nothing closed on")


def ending(record: Record) -> str:
    """How an episode of a pick-and-place task ended, one of `ENDINGS`.

    A failed episode is "held, not delivered" if the named object was the first to be lifted, "another object" if
    another one was, or if the gripper first closed beside another one and nothing was lifted.
    """
    lifted, close = record["first_lifted"], record["first_close"]
    if record["success"]:
        return "success"
    if lifted:
        return "held, not delivered" if lifted["right"] else "another object"
    if close:
        return "named object not lifted" if close["right"] else "another object"
    return "nothing closed on"


def endings(records: Iterable[Record]) -> dict[str, int]:
    """How many episodes ended in each of `ENDINGS`, in that order.

    Tasks whose goal moves no object (a drawer, a stove) do not count, as in `grounding`: they have no target that the
    gripper could be far from.
    """
    found = [ending(record) for record in records if record["final"]["gripper_to_target"] is not None]
    return {kind: found.count(kind) for kind in ENDINGS}


def aggregate(records: Sequence[Record], by: Callable[[Record], Any]) -> dict[Any, dict[str, Any]]:
    """One summary for each group of records, groups in order of first appearance.

    Args:
        records: episode records.
        by: group of a record, e.g. `lambda record: record["start"]["layout"]`.

    Returns:
        group -> `SuccessRate.to_dict()` plus `grounding`, `steps` (mean over successes, or None) and
        `seconds` (sum).
    """
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(by(record), []).append(record)
    return {group: summarise(members) for group, members in groups.items()}


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Success, grounding, mean steps of the successes and seconds of a set of episode records."""
    steps = [record["steps"] for record in records if record["success"]]
    return {
        **success_rate(records).to_dict(),
        "grounding": grounding(records),
        "steps": round(sum(steps) / len(steps), 1) if steps else None,
        "seconds": round(sum(record["seconds"] for record in records), 1),
    }


def task_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows of the success table: one per task, layout and instruction, sorted; keys as in `summarise`."""

    def group(record: Record) -> tuple[str, int, str, str]:
        start = record["start"]
        return start["suite"], start["task_id"], start["layout"], record["instruction"]

    names = ("suite", "task_id", "layout", "instruction")
    rows = aggregate(sorted(records, key=group), group)
    return [dict(zip(names, key, strict=True)) | row for key, row in rows.items()]


def suite_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows of the success table: one per suite and layout, sorted; `name` and the keys of `summarise`."""

    def group(record: Record) -> tuple[str, str]:
        return record["start"]["suite"], record["start"]["layout"]

    rows = aggregate(sorted(records, key=group), group)
    return [
        {"suite": suite, "layout": layout, "name": suite if layout == "official" else f"{suite} ({layout})"}
        | row
        for (suite, layout), row in rows.items()
    ]


def markdown_table(rows: Sequence[Mapping[str, Any]], first_column: str = "task") -> str:
    """The success table as Markdown, one line a row with key `name` (or `instruction`) and the success keys."""
    lines = [f"| {first_column} | success | 95 % interval |", "|---|---|---|"]
    for row in rows:
        low, high = row["interval"]
        name = row["name"] if "name" in row else row["instruction"]
        share = "-" if row["rate"] is None else f"{row['rate']:.0%}"
        count = f"{row['successes']}/{row['episodes']}"
        lines.append(f"| {name} | {share} ({count}) | {low:.0%} - {high:.0%} |")
    return "\n".join(lines) + "\n"
