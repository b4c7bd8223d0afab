"""Tables of a study's cells: rates over seeds with intervals, each seed's own rate, and where the policies went."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from fovea.evaluation.statistics import endings, grounding, success_rate
from fovea.pipelines.ladder import release
from fovea.pipelines.ladder_compare import Outcome, caveat

SLIDES_OFF = (3, 4)
SHOWN = ("method", "group", "seed", "commit", "mujoco", "training", "seconds")
NOTHING_CHOSEN = (
    "The last checkpoint acts: none was chosen by its episodes. What all methods share ({}) was settled in earlier "
    "runs, which had played some of the same starts."
)


def opening(title: str, name: str, study: Any, done: Sequence[Outcome], told: Sequence[str]) -> list[str]:
    """How a study's page begins: command, commits, how much of it is done, and how it was made."""
    commits = ", ".join(sorted({o["commit"] for o in done})) or "none"
    hours = sum(o["seconds"] for o in done) / 3600
    return [
        f"# {title}",
        "",
        f"`fovea reproduce {name} --scale {study.scale}{study.chosen()}` (commit {commits}; {_seeds(study, done)}): "
        f"{len(done)} of {len(study.cells())} policies are trained and tested, {hours:.1f} "
        "core-hours of training and test episodes.",
        "",
        *_simulator(done),
        " ".join(told),
        "",
    ]


def _simulator(done: Sequence[Outcome]) -> list[str]:
    """Which MuJoCo the episodes ran under, and what is known to be wrong with it."""
    versions = sorted({o["mujoco"] for o in done}, key=release)
    if not versions:
        return []
    said = f"Demonstrations and episodes: MuJoCo {' and '.join(versions)}."
    if release(versions[-1]) >= SLIDES_OFF:
        said += (
            " From 3.4 on the bowl of libero_spatial's task on the ramekin slides off it before an episode begins, in "
            "every official state ([official_states.md](official_states.md)): that task is not what its sentence says, "
            "for all methods alike."
        )
    return [said, ""]


def _seeds(study: Any, done: Sequence[Outcome]) -> str:
    """'seeds 0 and 1', and which of them there are so far where some are missing."""
    planned, found = range(study.seeds), sorted({o["seed"] for o in done})
    text = f"seeds {' and '.join(map(str, planned))}" if len(planned) < 3 else f"seeds 0 to {planned[-1]}"
    return (
        text if found == list(planned) else f"{text} planned, so far {', '.join(map(str, found)) or 'none'}"
    )


FIRST_CLOSE = (
    "At the first close of the gripper: whether the named object was the nearest, of the episodes in which it closed; "
    "whether it was within 15 cm, of all. Tasks that move no object do not count."
)


def details(done: Sequence[Outcome], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The middle of a study's page: every test set by itself, and where the policies went in each group of them."""
    tests = {test: [test] for its in groups.values() for test in its}
    return [
        *("", "## By suite", "", *success_table(done, tests)),
        *("", "## Which object the policies went for", "", FIRST_CLOSE, "", *grounding_table(done, groups)),
    ]


def ending_of(done: Sequence[Outcome], found: Sequence[str], tests: Sequence[str]) -> list[str]:
    """How a study's page ends: costs, and the sentences that the numbers allow, with what their p is silent about.

    Args:
        found: the sentences.
        tests: test sets on which seeds are compared.
    """
    said = found or ["Nothing can be compared yet." if done else "Nothing was measured yet."]
    return [
        "",
        "## What training cost",
        "",
        *training_table(done),
        "",
        "## What holds here",
        "",
        *([caveat(done, tests), ""] if found else []),
        *said,
        "",
    ]


def records(outcomes: Sequence[Outcome], method: str, test: str) -> list[dict[str, Any]]:
    """Episodes of one method on one test set, all seeds together."""
    return [r for o in outcomes if o["method"] == method for r in o["tests"].get(test, [])]


def methods(outcomes: Sequence[Outcome]) -> list[str]:
    """Names in order of first appearance."""
    return list(dict.fromkeys(o["method"] for o in outcomes))


def cell(outcomes: Sequence[Outcome], method: str, test: str | Sequence[str]) -> str:
    """'86% (77/90, 77%-91%; seeds 84, 87)', or '-' where nothing ran."""
    tests = [test] if isinstance(test, str) else list(test)
    its = [r for name in tests for r in records(outcomes, method, name)]
    if not its:
        return "-"
    rate = success_rate(its)
    low, high = rate.interval
    numbers = sorted({o["seed"] for o in outcomes if o["method"] == method})
    by_seed = [[o for o in outcomes if o["seed"] == number] for number in numbers]
    seeds = [
        success_rate(of_seed).rate
        for its_own in by_seed
        if (of_seed := [r for name in tests for r in records(its_own, method, name)])
    ]
    each = f"; seeds {', '.join(f'{100 * s:.0f}' for s in seeds)}" if len(seeds) > 1 else ""
    return f"{rate.rate:.0%} ({rate.successes}/{rate.episodes}, {low:.0%}-{high:.0%}{each})"


def success_table(
    outcomes: Sequence[Outcome], columns: Mapping[str, Sequence[str]], rows: Sequence[str] = ()
) -> list[str]:
    """Markdown: one row a method, one column a group of test sets."""
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for method in rows or methods(outcomes):
        lines.append(
            f"| {method} | " + " | ".join(cell(outcomes, method, t) for t in columns.values()) + " |"
        )
    return lines


def grounding_table(outcomes: Sequence[Outcome], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Markdown: which object the gripper closed at and lifted, and how episodes ended, per method and test group."""
    lines = [
        "| | closed at the named object | within 15 cm of it | lifted it first | distance | held, not delivered | "
        "not lifted | another object | nothing closed on |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in methods(outcomes):
        for group, tests in columns.items():
            its = [r for test in tests for r in records(outcomes, method, test)]
            if not its:
                continue
            g, kinds = grounding(its), list(endings(its).values())[1:]
            gap = "-" if g["close_distance"] is None else f"{100 * g['close_distance']:.1f} cm"
            asked = ("closed_right", "closed_near", "lifted_right")
            shares = (f"{g[k]['successes']}/{g[k]['episodes']}" for k in asked)
            lines.append(f"| {method}, {group} | {' | '.join([*shares, gap, *map(str, kinds)])} |")
    return lines


def training_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Markdown: what each method cost, means over its policies."""
    lines = [
        "| | policies | steps | minutes of one core, each | training loss | validation loss |",
        "|---|---|---|---|---|---|",
    ]
    for method in methods(outcomes):
        runs = [o["training"] for o in outcomes if o["method"] == method]
        held_out = [run["validation_loss"] for run in runs if run["validation_loss"] is not None]
        lines.append(
            f"| {method} | {len(runs)} | {runs[0]['steps']:,} | {mean(run['seconds'] for run in runs) / 60:.0f} | "
            f"{mean(run['loss'] for run in runs):.4f} | {f'{mean(held_out):.4f}' if held_out else '-'} |"
        )
    return lines


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """JSON-able: every cell's training and, per test set, success, grounding, endings and successes of each task."""
    return [
        {name: outcome[name] for name in SHOWN}
        | {"tests": {name: _numbers(its) for name, its in outcome["tests"].items()}}
        for outcome in outcomes
    ]


def _numbers(its: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tasks = sorted({r["start"]["task_id"] for r in its})
    return success_rate(its).to_dict() | {
        "grounding": grounding(its),
        "endings": endings(its),
        "tasks": {t: success_rate([r for r in its if r["start"]["task_id"] == t]).to_dict() for t in tasks},
    }


def where_it_fails(outcomes: Sequence[Outcome], method: str, tests: Sequence[str]) -> str | None:
    """'turn on the stove (0 of 6), push the plate ... (1 of 6); the other 8 tasks 42 of 48'; None where all go well.

    The tasks of which a method wins less than half, over all seeds and the test sets given.
    """
    by_task: dict[str, list[bool]] = {}
    for test in tests:
        for record in records(outcomes, method, test):
            by_task.setdefault(record["instruction"], []).append(bool(record["success"]))
    weak = {task: won for task, won in by_task.items() if sum(won) < len(won) / 2}
    if not weak or len(weak) == len(by_task):
        return None
    rest = [won for task, its in by_task.items() if task not in weak for won in its]
    said = ", ".join(
        f"{task} ({sum(won)} of {len(won)})"
        for task, won in sorted(weak.items(), key=lambda one: sum(one[1]))
    )
    others = len(by_task) - len(weak)
    return f"{said}; the other {others} task{'s' if others > 1 else ''} {sum(rest)} of {len(rest)}"
