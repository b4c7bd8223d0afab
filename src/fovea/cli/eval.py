"""`fovea eval`: a trained policy in closed loop in LIBERO."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from fovea.errors import FoveaError


@dataclass
class Config:
    """Which policy, on which episodes.

    Attributes:
        checkpoint: folder of a policy, as `fovea train` or `lerobot-train` writes it.
        suite: LIBERO suite.
        tasks: task numbers; empty takes all.
        episodes: episodes a task.
        layout: "official" initial states, or "drawn": object positions drawn anew (libero_object only).
        first_state: first official initial state to start from; collection uses 0 to 29 unless told otherwise.
        out: folder for episodes.jsonl and videos; default: beside the checkpoint.
        workers: processes that simulate.
        films: make videos with heat maps of this many episodes.
        n_action_steps: actions of a chunk that are played before the next is predicted; the policy's own if not given.
        temporal_ensemble: none, newest or oldest; the policy's own if not given.
        seed: draws positions and fixtures.
        json: print one JSON object instead of a table.
    """

    checkpoint: Path
    suite: str = "libero_object"
    tasks: list[int] = field(default_factory=list)
    episodes: int = 10
    layout: str = "official"
    first_state: int = 30
    out: Path | None = None
    workers: int = 2
    films: int = 0
    n_action_steps: int | None = None
    temporal_ensemble: str | None = None
    seed: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        if self.layout not in ("official", "drawn"):
            raise FoveaError(f"--layout: expected official or drawn, got {self.layout!r}")
        if self.episodes < 1 or self.workers < 1:
            raise FoveaError(
                f"--episodes and --workers: expected at least 1, got {self.episodes}, {self.workers}"
            )


def run(config: Config) -> None:
    """Evaluate, or go on, and print the table."""
    from fovea.evaluation import episodes
    from fovea.evaluation.actor import Actor
    from fovea.evaluation.closed_loop import evaluate
    from fovea.evaluation.statistics import grounding, markdown_table, success_rate, task_table
    from fovea.sim import get_tasks

    known = [task.task_id for task in get_tasks(config.suite)]
    if unknown := sorted(set(config.tasks) - set(known)):
        raise FoveaError(f"--tasks: {config.suite} has tasks {known[0]} to {known[-1]}, got {unknown}")
    given = {"n_action_steps": config.n_action_steps, "temporal_ensemble": config.temporal_ensemble}
    actor = Actor.load(
        config.checkpoint, **{name: value for name, value in given.items() if value is not None}
    )
    tasks = config.tasks or known
    if config.layout == "official":
        states = range(config.first_state, config.first_state + config.episodes)
        starts = episodes.official(config.suite, tasks, states, seed=config.seed)
    else:
        starts = episodes.drawn(config.suite, tasks, config.episodes, seed=config.seed)
    out = config.out or config.checkpoint / "evaluation"
    records = evaluate(actor, starts, out, workers=config.workers, films=range(config.films))
    overall, rows = success_rate(records), task_table(records)
    if config.json:
        print(json.dumps({"success": overall.to_dict(), "tasks": rows, "grounding": grounding(records)}))
        return
    print(markdown_table(rows))
    print(f"In all: {overall}. Episodes: {out / 'episodes.jsonl'}")
