"""`fovea eval`: a trained policy in closed loop in LIBERO, with Wilson intervals and a report."""

import contextlib
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fovea import __version__
from fovea.errors import FoveaError
from fovea.sim.layout import IN_WORDS, Layout

if TYPE_CHECKING:
    from fovea.evaluation.actor import Actor
    from fovea.evaluation.engines import Engine
    from fovea.sim import EpisodeStart, RenderSettings

USUAL_STATES = 20  # the last so many of a task's initial states; `fovea collect` leaves 30 to 49 alone


@dataclass
class Config:
    """Which policy on which episodes.

    Attributes:
        checkpoint: folder of a trained policy of any LeRobot type, as `fovea train` and LeRobot write it.
        out: folder of the results; an evaluation that was stopped there goes on.
        suite: LIBERO suites, one or several: libero_spatial,libero_object. `fovea suites` lists them.
        tasks: task numbers, of every suite; empty takes all.
        layout: "official" initial states; "drawn": object positions drawn anew; or "spread": objects on the table
            anywhere among each other.
        episodes: episodes a task.
        init_states: first and last official initial state to start from. Default: the last 20 of a task, 30 to 49 of
            50, which `fovea collect` leaves alone.
        max_steps: step limit; default the suite's own. LeRobot's own evaluation gives libero_spatial 280.
        seed: draws positions, fixtures and what a policy draws; the same seed gives the same episodes whatever the
            workers.
        workers: how many simulate at a time.
        engine: where they do: "local" processes, or the CPUs of a "ray" cluster.
        ray_address: of the cluster; default RAY_ADDRESS, else one that `ray start` made here, else this machine alone.
        stock: draw pictures as upstream LIBERO does: slowly, for policies trained on such pictures.
        videos: episodes a task that become videos, with heat maps where the policy has some.
        n_action_steps: actions of a chunk that are played before the next one is predicted, if not the policy's own.
        temporal_ensemble: none, newest or oldest, if not the policy's own.
        encoder_backend: torch, openvino-fp32, openvino-bf16 or openvino-int8 (see `fovea compile`), for EF-VLA.
        json: print the numbers as JSON.
    """

    checkpoint: Path
    out: Path = Path("outputs/eval")
    suite: list[str] = field(default_factory=lambda: ["libero_object"])
    tasks: list[int] = field(default_factory=list)
    layout: Layout = "official"
    episodes: int = 20
    init_states: list[int] = field(default_factory=list)
    max_steps: int | None = None
    seed: int = 0
    workers: int = 2
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    stock: bool = False
    videos: int = 1
    n_action_steps: int | None = None
    temporal_ensemble: Literal["none", "newest", "oldest"] | None = None
    encoder_backend: Literal["torch", "openvino-fp32", "openvino-bf16", "openvino-int8"] | None = None
    json: bool = False

    def __post_init__(self) -> None:
        least_of = {"episodes": 1, "workers": 1, "videos": 0, "seed": 0, "max_steps": 1, "n_action_steps": 1}
        for name, least in least_of.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise FoveaError(f"{name}: expected at least {least}, got {value}")
        if not self.suite or len(set(self.suite)) != len(self.suite):
            raise FoveaError(f"suite: expected different suites, at least one, got {self.suite}")
        if self.ray_address is not None and self.engine != "ray":
            raise FoveaError("ray_address goes with --engine ray")
        if not self.init_states:
            return
        if len(self.init_states) != 2 or not 0 <= self.init_states[0] <= self.init_states[1]:
            raise FoveaError(f"init_states: expected first,last, got {self.init_states}")
        states = self.init_states[1] - self.init_states[0] + 1
        if self.layout == "official" and self.episodes > states:
            raise FoveaError(
                f"episodes: the official initial states {self.init_states[0]} to {self.init_states[1]} allow "
                f"{states} episodes a task, got {self.episodes}; widen --init_states or use --layout drawn"
            )

    def starts(self) -> "list[EpisodeStart]":
        """The episodes, suite after suite, task after task.

        Raises:
            FoveaError: an unknown suite or task, or one that has not so many initial states.
        """
        from fovea.evaluation.episodes import drawn, official
        from fovea.sim.suites import get_task, get_tasks

        chosen = [
            get_task(suite, number)
            for suite in self.suite
            for number in self.tasks or [task.task_id for task in get_tasks(suite)]
        ]
        starts = []
        for task in chosen:
            count = len(task.initial_states())
            first, last = self.init_states or (max(0, count - USUAL_STATES), count - 1)
            if last >= count:
                raise FoveaError(
                    f"init_states: {task.suite} task {task.task_id} has states 0 to {count - 1}, got {last}"
                )
            states = range(first, last + 1)
            if self.layout != "official":
                starts += drawn(
                    task.suite,
                    [task.task_id],
                    self.episodes,
                    layout=self.layout,
                    seed=self.seed,
                    init_states=states,
                )
                continue
            if self.episodes > len(states):
                more = f"--init_states 0,{count - 1}" if count >= self.episodes else f"--episodes {count}"
                raise FoveaError(
                    f"episodes: {task.suite} task {task.task_id} has {count} initial states, of which {first} to "
                    f"{last} are used by default; got {self.episodes} episodes: ask for {more} or --layout drawn"
                )
            starts += official(task.suite, [task.task_id], states[: self.episodes], seed=self.seed)
        return starts

    def make_engine(self) -> "Engine":
        """Where the episodes are simulated."""
        if self.engine == "ray":
            from fovea.evaluation.ray_engine import RayEngine

            return RayEngine(self.ray_address)
        from fovea.evaluation.engines import LocalEngine

        return LocalEngine()


def run(config: Config) -> None:
    """Play the episodes, write the report, print the tables."""
    from fovea.evaluation.actor import Actor
    from fovea.evaluation.closed_loop import evaluate
    from fovea.evaluation.report import write_report
    from fovea.evaluation.statistics import markdown_table, success_rate, suite_table, task_table
    from fovea.pipelines.learn import trained_on
    from fovea.sim import RenderSettings

    starts = config.starts()
    changes = {
        "n_action_steps": config.n_action_steps,
        "temporal_ensemble": config.temporal_ensemble,
        "encoder_backend": config.encoder_backend,
    }
    actor = Actor.load(
        config.checkpoint, **{name: value for name, value in changes.items() if value is not None}
    )
    if config.encoder_backend not in (None, "torch"):  # made or found now, before anything simulates
        actor.identity += f"-{actor.policy.picture_encoder.identity[:8]}"
    render = RenderSettings(image_size=actor.image_size, stock=config.stock)
    with contextlib.closing(config.make_engine()) as engine:
        records = evaluate(
            actor,
            starts,
            config.out,
            workers=config.workers,
            render=render,
            trained_on=trained_on(config.checkpoint),
            films=[i for i in range(len(starts)) if i % config.episodes < config.videos],
            max_steps=config.max_steps,
            engine=engine,
            progress=not config.json,
        )
    data = report_data(config, actor, render, records)
    page = write_report(data, config.out, base=config.out)
    if config.json:
        printed = ("success", "suites", "tasks", "diagnostics", "wall_seconds")
        print(json.dumps({key: data[key] for key in printed}, indent=2))
        return
    print(markdown_table(task_table(records)))
    print(markdown_table(suite_table(records), "suite"))
    print(f"All: {success_rate(records)}, in {data['wall_seconds'] / 60:.1f} minutes. Report: {page}")


def report_data(
    config: Config, actor: "Actor", render: "RenderSettings", records: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the report says about an evaluation."""
    from fovea.pipelines.measured import measured

    where = IN_WORDS[config.layout]
    suites = ", ".join(config.suite)
    return {
        "title": f"{actor.title} on {suites}",
        "summary": f"The policy {config.checkpoint} in {len(records)} episodes of {suites}, from {where}.",
        "wall_seconds": round(sum(record.get("wall_seconds", 0.0) for record in records), 1),
        "configuration": {key: _plain(value) for key, value in asdict(config).items()}
        | {"policy": actor.identity, "render": render.asdict()},
        "versions": {"fovea": __version__, "python": platform.python_version()},
    } | measured(records)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
