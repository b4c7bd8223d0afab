"""Which episodes to run: lists of `EpisodeStart`, a function of their arguments alone.

An evaluation is a list made once, before any worker exists; so the same seed gives the same episodes whatever
the number of workers, the order in which they finish or the episodes another run has already done.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from fovea.errors import FoveaError
from fovea.sim import EpisodeStart


def official(
    suite: str, task_ids: Iterable[int], init_states: Iterable[int], *, seed: int = 0
) -> list[EpisodeStart]:
    """Every task from every one of the benchmark's own initial states.

    Args:
        suite: LIBERO suite, e.g. "libero_object".
        task_ids: tasks of the suite, 0 ... 9 in the four standard suites.
        init_states: which of the benchmark's initial states, 0 ... 49; keep training's and evaluation's apart.
        seed: what an initial state does not hold (fixture poses in some suites) is drawn from it.
    """
    tasks, states = _numbers("task_ids", task_ids), _numbers("init_states", init_states)
    return [EpisodeStart(suite, task, state, seed=seed) for task in tasks for state in states]


def drawn(
    suite: str,
    task_ids: Iterable[int],
    episodes: int,
    *,
    layout: str = "drawn",
    seed: int = 0,
    targets: Mapping[int, Sequence[str]] | None = None,
    init_states: Iterable[int] = range(50),
) -> list[EpisodeStart]:
    """Every task `episodes` times, object positions drawn anew each time.

    Args:
        suite: LIBERO suite.
        task_ids: tasks (that is: scenes) of the suite.
        episodes: episodes a task.
        layout: "drawn" or "spread" (see `fovea.sim.layout`).
        seed: gives every episode its own seed, which depends on nothing but this seed, suite, task and number.
        targets: for a task, the object types to name in turn, e.g. {0: ["ketchup", "milk"]}; a task that is
            missing here keeps its own target.
        init_states: official states to start from before the objects are moved, taken in turn.
    """
    if episodes < 1:
        raise FoveaError(f"expected at least 1 episode a task, got {episodes}")
    tasks, states = _numbers("task_ids", task_ids), _numbers("init_states", init_states)
    targets = targets or {}
    if unknown := sorted(set(targets) - set(tasks)):
        raise FoveaError(f"targets are given for tasks {unknown}, but the tasks to run are {tasks}")
    if empty := sorted(task for task, names in targets.items() if not names):
        raise FoveaError(f"targets of tasks {empty} are empty; leave a task out to keep its own target")
    starts = []
    for task in tasks:
        named: Sequence[str | None] = targets.get(task, [None])
        for number in range(episodes):
            starts.append(
                EpisodeStart(
                    suite=suite,
                    task_id=task,
                    init_state=states[number % len(states)],
                    layout=layout,
                    target=named[number % len(named)],
                    seed=_seed(seed, suite, task, number),
                )
            )
    return starts


def episode_id(start: EpisodeStart, policy: str) -> str:
    """What an episode is called in results and resumed by: 16 hex digits of its start and the policy's identity."""
    text = json.dumps({"start": asdict(start), "policy": policy}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _seed(*parts: int | str) -> int:
    """A 31-bit seed from its parts, the same on every machine (Python's own hash is salted)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) >> 1


def _numbers(name: str, values: Iterable[int]) -> list[int]:
    numbers = list(values)
    if not numbers or min(numbers) < 0 or len(set(numbers)) != len(numbers):
        raise FoveaError(f"expected {name} to be different numbers from 0 on, at least one, got {numbers}")
    return numbers
