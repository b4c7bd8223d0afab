"""Demonstrations and test episodes that studies over several suites share.

Training sees official initial states 0 to 29 and layouts drawn around them; tests begin at states 30 to 49, or at
layouts drawn with other seeds. No test episode is ever used to choose anything.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fovea.errors import FoveaError
from fovea.pipelines.ladder import TestSet
from fovea.sim.collect import CollectConfig
from fovea.sim.suites import get_tasks

TRAINING_STATES, FIRST_TEST_STATE = [0, 29], 30
TEST_SEED = 2000  # of drawn test layouts; collection uses small numbers


# Tasks of libero_90 for EF-VLA's unseen tasks, which are variations of it; one object to one place outside a drawer:
# those of the same scenes, and others in which the same objects are taken (moka pot, ketchup, black bowl, mugs). The
# paper trains on all ninety.
SAME_SCENES = [25, 27, 30, 31, 34, 36, 37, 43, 50, 51, 52, 53, 54, 60, 61, 62, 69, 70, 71, 72]
SAME_OBJECTS = [9, 10, 12, 13, 19, 38, 48, 58, 65, 66, 67, 68]
LIBERO_90 = sorted([*SAME_SCENES, *SAME_OBJECTS])


def collections(
    folder: Path,
    suites: Sequence[str],
    *,
    drawn: int,
    official: int,
    spread: int = 0,
    workers: int,
    seed: int = 0,
    tasks: Sequence[int] = (),
) -> list[CollectConfig]:
    """A data set of every suite and layout; `drawn`, `official`, `spread`: episodes a task of each, 0 for none."""
    counts = {"drawn": drawn, "official": official, "spread": spread}
    return [
        CollectConfig(
            out=folder / f"{suite}-{layout}",
            suite=suite,
            tasks=list(tasks),
            episodes=count,
            layout=layout,
            init_states=TRAINING_STATES,
            noise=0.2,
            recoveries=0.25,
            workers=workers,
            seed=seed,
        )
        for suite in suites
        for layout, count in counts.items()
        if count
    ]


def collect_all(configs: Sequence[CollectConfig]) -> dict[str, Any]:
    """Record what is missing; `episodes`, `frames` and `rejected` of all data sets together."""
    from fovea.sim.collect import run

    outcomes = [run(config) for config in configs]
    return {name: sum(outcome[name] for outcome in outcomes) for name in ("episodes", "frames", "rejected")}


def official_tests(
    suites: Sequence[str], episodes: int, first_state: int = FIRST_TEST_STATE
) -> list[TestSet]:
    """One test set a suite: `episodes` official initial states of every task, from `first_state` on."""
    from fovea.evaluation.episodes import official

    for suite in suites:
        _check_states(suite, first_state + episodes)
    return [
        TestSet(suite, tuple(official(suite, _tasks(suite), range(first_state, first_state + episodes))))
        for suite in suites
    ]


def drawn_tests(suites: Sequence[str], episodes: int) -> list[TestSet]:
    """One test set a suite: `episodes` layouts drawn anew of every task; the task keeps its own target."""
    from fovea.evaluation.episodes import drawn

    return [
        TestSet(
            f"{suite}, drawn",
            tuple(drawn(suite, _tasks(suite), episodes, seed=TEST_SEED, init_states=range(30, 50))),
        )
        for suite in suites
    ]


def unseen_tests(episodes: int) -> list[TestSet]:
    """EF-VLA's unseen tasks, but for the one that no arm position allows (see docs/experts.md)."""
    from fovea.evaluation.episodes import official

    _check_states("fovea_unseen", episodes)
    tasks = [task for task in _tasks("fovea_unseen") if task != 0]
    return [TestSet("fovea_unseen", tuple(official("fovea_unseen", tasks, range(episodes))))]


def _check_states(suite: str, needed: int) -> None:
    """Refuse, before anything runs, episodes beyond a suite's last official state."""
    there = min(len(task.initial_states()) for task in get_tasks(suite))
    if needed > there:
        raise FoveaError(
            f"--episodes: expected test episodes up to state {there - 1} of {suite}, the last, got {needed - 1}; "
            f"ask for {needed - there} fewer"
        )


def _tasks(suite: str) -> list[int]:
    return [task.task_id for task in get_tasks(suite)]
