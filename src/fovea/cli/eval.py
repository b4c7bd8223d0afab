"""`fovea eval`: a trained policy in closed loop in LIBERO, with Wilson intervals and a report."""

import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fovea import __version__
from fovea.errors import FoveaError

if TYPE_CHECKING:
    from fovea.evaluation.actor import Actor
    from fovea.sim import EpisodeStart

NAMES = {"early": "EF-VLA", "late": "LF-VLA"}


@dataclass
class Config:
    """Which policy on which episodes.

    Attributes:
        checkpoint: folder of a trained policy, as `fovea train` and LeRobot write it.
        out: folder of the results; an evaluation that was stopped there goes on.
        suite: LIBERO suite.
        tasks: task numbers; empty takes all.
        layout: "official" initial states, or "drawn": object positions drawn anew (libero_object only).
        episodes: episodes a task.
        init_states: first and last official initial state to start from; `fovea collect` leaves 30 to 49 alone.
        seed: draws positions and fixtures; the same seed gives the same episodes whatever the workers.
        workers: processes that simulate.
        videos: episodes a task that become videos with heat maps (early fusion only).
        n_action_steps: actions of a chunk that are played before the next one is predicted, if not the policy's own.
        temporal_ensemble: none, newest or oldest, if not the policy's own.
        json: print the numbers as JSON.
    """

    checkpoint: Path
    out: Path = Path("outputs/eval")
    suite: str = "libero_object"
    tasks: list[int] = field(default_factory=list)
    layout: Literal["official", "drawn"] = "official"
    episodes: int = 20
    init_states: list[int] = field(default_factory=lambda: [30, 49])
    seed: int = 0
    workers: int = 2
    videos: int = 1
    n_action_steps: int | None = None
    temporal_ensemble: Literal["none", "newest", "oldest"] | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("workers", 1), ("videos", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise FoveaError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if len(self.init_states) != 2 or not 0 <= self.init_states[0] <= self.init_states[1]:
            raise FoveaError(f"init_states: expected first,last, got {self.init_states}")
        if self.layout == "official" and self.episodes > len(self.states):
            raise FoveaError(
                f"episodes: the official initial states {self.init_states[0]} to {self.init_states[1]} allow "
                f"{len(self.states)} episodes a task, got {self.episodes}; widen --init_states or use --layout drawn"
            )

    @property
    def states(self) -> range:
        """The official initial states to start from."""
        return range(self.init_states[0], self.init_states[1] + 1)

    def starts(self) -> "list[EpisodeStart]":
        """The episodes, task after task."""
        from fovea.evaluation.episodes import drawn, official
        from fovea.sim.suites import get_task, get_tasks

        tasks = self.tasks or [task.task_id for task in get_tasks(self.suite)]
        for task in tasks:
            get_task(self.suite, task)
        if self.layout == "drawn":
            return drawn(self.suite, tasks, self.episodes, seed=self.seed, init_states=self.states)
        return official(self.suite, tasks, self.states[: self.episodes], seed=self.seed)


def run(config: Config) -> None:
    """Play the episodes, write the report, print the table."""
    from fovea.evaluation.actor import Actor
    from fovea.evaluation.closed_loop import evaluate
    from fovea.evaluation.report import write_report
    from fovea.evaluation.statistics import markdown_table, success_rate, task_table
    from fovea.pipelines.learn import trained_on
    from fovea.sim import RenderSettings

    starts = config.starts()
    changes = {"n_action_steps": config.n_action_steps, "temporal_ensemble": config.temporal_ensemble}
    actor = Actor.load(
        config.checkpoint, **{name: value for name, value in changes.items() if value is not None}
    )
    films = [i for i in range(len(starts)) if i % config.episodes < config.videos]
    records = evaluate(
        actor,
        starts,
        config.out,
        workers=config.workers,
        render=RenderSettings(image_size=_image_size(actor)),
        trained_on=trained_on(config.checkpoint),
        films=films if actor.policy.config.fusion == "early" else [],
        progress=not config.json,
    )
    data = report_data(config, actor, records)
    page = write_report(data, config.out, base=config.out)
    if config.json:
        print(json.dumps({key: data[key] for key in ("success", "tasks", "diagnostics")}, indent=2))
        return
    print(markdown_table(task_table(records)))
    print(f"\nAll: {success_rate(records)}. Report: {page}")


def report_data(config: Config, actor: "Actor", records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the report says about an evaluation."""
    from fovea.pipelines.measured import measured

    where = "object positions drawn anew" if config.layout == "drawn" else "official initial states"
    return {
        "title": f"{NAMES.get(actor.policy.config.fusion, actor.policy.config.fusion)} on {config.suite}",
        "summary": f"The policy {config.checkpoint} in {len(records)} episodes of {config.suite}, from {where}.",
        "configuration": {key: _plain(value) for key, value in asdict(config).items()}
        | {"policy": actor.identity},
        "versions": {"fovea": __version__, "python": platform.python_version()},
    } | measured(records)


def _image_size(actor: "Actor") -> int:
    """Side of the pictures that the policy was trained on."""
    return max(feature.shape[-1] for feature in actor.policy.config.image_features.values())


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
