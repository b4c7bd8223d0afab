"""How often the scripted expert reaches a suite's goals: official initial states, the official step limit."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fovea.data.files import atomic_write
from fovea.errors import FoveaError
from fovea.evaluation.statistics import SuccessRate
from fovea.pipelines.stages import current_commit
from fovea.processes import spread
from fovea.progress import progress_bar
from fovea.sim.gl import single_threaded_children
from fovea.sim.suites import get_task, get_tasks

CHUNK = 5  # episodes of one task that a process plays at a time: building a scene takes seconds
HEADING = "# The scripted expert\n"


@dataclass(frozen=True)
class BenchExpertsConfig:
    """What to play.

    Attributes:
        suite: LIBERO suite.
        tasks: task numbers; empty takes all.
        states: initial states of each task, from the first.
        noise: disturb the executed actions as `fovea collect` does, with this standard deviation (1.0 = 5 cm).
        recoveries: share of the episodes with pushes, early grasps or drops; counts only with noise.
        workers: processes, one core each.
        seed: draws the disturbances.
        records: folder that keeps finished episodes; the same command goes on with them.
        out: Markdown page in which the suite's table is put, beside those of other suites.
        json: print JSON instead of the table.
    """

    suite: str = "libero_object"
    tasks: list[int] = field(default_factory=list)
    states: int = 20
    noise: float = 0.0
    recoveries: float = 0.25
    workers: int = 1
    seed: int = 0
    records: Path = Path("outputs/experts")
    out: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for name in ("states", "workers"):
            if getattr(self, name) < 1:
                raise FoveaError(f"--{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 <= self.noise <= 1 or not 0 <= self.recoveries <= 1:
            raise FoveaError(
                f"--noise and --recoveries: expected 0 to 1, got {self.noise} and {self.recoveries}"
            )

    @property
    def task_ids(self) -> list[int]:
        """The tasks to play."""
        return list(self.tasks) or [task.task_id for task in get_tasks(self.suite)]

    @property
    def file(self) -> Path:
        """Where the episodes of this suite under these disturbances are kept, one JSON object a line."""
        noise = f"-noise{self.noise:g}-{self.recoveries:g}-seed{self.seed}" if self.noise else ""
        return self.records / f"{self.suite}{noise}.jsonl"

    @property
    def command(self) -> str:
        """The command that plays this again."""
        words = [f"fovea experts bench --suite {self.suite} --states {self.states}"]
        words += [f"--tasks {','.join(map(str, self.tasks))}"] * bool(self.tasks)
        words += [f"--noise {self.noise:g} --recoveries {self.recoveries:g} --seed {self.seed}"] * bool(
            self.noise
        )
        return " ".join(words)


def run(config: BenchExpertsConfig) -> dict[str, Any]:
    """Play what is not played yet.

    Returns:
        `suite`, `limit` (steps), `command`, `commits` (that the episodes were played at), `total` and one entry
        of `tasks` for each task: `task_id`, `instruction`, `steps` (for each state, None for a failure), `rate`,
        `successes`, `episodes`, `interval`, and `unsupported` (why, or None).

    Raises:
        FoveaError: unknown suite or task, or more states than there are.
    """
    for task_id in config.task_ids:
        count = len(get_task(config.suite, task_id).initial_states())
        if config.states > count:
            raise FoveaError(
                f"--states: {config.suite} task {task_id} has {count} initial states, got {config.states}"
            )
    played = {(record["task_id"], record["state"]): record for record in _read(config.file)}
    wanted = [(task, state) for task in config.task_ids for state in range(config.states)]
    missing = [pair for pair in wanted if pair not in played]
    with progress_bar(visible=not config.json) as bar:
        job = bar.add_task(config.suite, total=len(wanted), completed=len(wanted) - len(missing), note="")
        for records in _play_all(config, missing):
            _append(config.file, records)
            played |= {(record["task_id"], record["state"]): record for record in records}
            won = sum(played[pair]["steps"] is not None for pair in wanted if pair in played)
            bar.update(job, advance=len(records), note=f"{won} successes")
    return _result(config, [played[pair] for pair in wanted])


def _result(config: BenchExpertsConfig, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tasks = []
    for task_id in config.task_ids:
        of_task = [record for record in records if record["task_id"] == task_id]
        steps = [record["steps"] for record in of_task]
        tasks.append(
            {
                "task_id": task_id,
                "instruction": get_task(config.suite, task_id).language,
                "steps": steps,
                **_rate(steps),
                "unsupported": of_task[0]["unsupported"],
            }
        )
    return {
        "suite": config.suite,
        "limit": get_task(config.suite, config.task_ids[0]).max_steps,
        "command": config.command,
        "commits": sorted({record["commit"] for record in records}),
        "total": _rate([record["steps"] for record in records]),
        "tasks": tasks,
    }


def _rate(steps: Sequence[int | None]) -> dict[str, Any]:
    return SuccessRate(sum(s is not None for s in steps), len(steps)).to_dict()


def _read(file: Path) -> list[dict[str, Any]]:
    """Finished episodes; a line that a killed process left half-written does not count."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _append(file: Path, records: Sequence[dict[str, Any]]) -> None:
    whole = [json.dumps(record) + "\n" for record in [*_read(file), *records]]
    with atomic_write(file) as out:
        out.write("".join(whole).encode())


def _play_all(
    config: BenchExpertsConfig, missing: Sequence[tuple[int, int]]
) -> Iterator[list[dict[str, Any]]]:
    """Records of a few episodes of one task at a time."""
    jobs, commit = [], current_commit()
    for task_id in config.task_ids:
        states = [state for task, state in missing if task == task_id]
        jobs += [(config, task_id, states[i : i + CHUNK], commit) for i in range(0, len(states), CHUNK)]
    if config.workers == 1 or len(jobs) < 2:
        yield from map(_play_some, jobs)
        return
    with single_threaded_children():
        yield from spread(_play_some, jobs, config.workers)


def _play_some(job: tuple[BenchExpertsConfig, int, list[int], str]) -> list[dict[str, Any]]:
    from fovea.sim import EpisodeStart, LiberoEnv

    config, task_id, states, commit = job
    env = LiberoEnv(config.suite, task_id)
    records = []
    try:
        for state in states:
            env.reset(EpisodeStart(config.suite, task_id, state))
            steps, unsupported = _play(env, config, np.random.default_rng([config.seed, task_id, state]))
            records.append(
                {
                    "task_id": task_id,
                    "state": state,
                    "steps": steps,
                    "unsupported": unsupported,
                    "commit": commit,
                }
            )
    finally:
        env.close()
    return records


def _play(env: Any, config: BenchExpertsConfig, rng: np.random.Generator) -> tuple[int | None, str | None]:
    """Steps to success (None if the limit came first), and why the expert cannot do the task at all."""
    from fovea.sim.disturb import Disturbance
    from fovea.sim.expert import Expert, NoGrasp, UnsupportedGoal

    disturbance = Disturbance(rng, config.noise, bool(config.noise) and rng.random() < config.recoveries)
    try:
        expert = Expert(env)
    except NoGrasp:
        return None, None
    except UnsupportedGoal as error:
        return None, str(error)
    for step in range(env.max_steps):
        try:
            action = expert.act()
        except NoGrasp:  # something lies so that the fingers cannot take it
            return None, None
        if config.noise:
            action = disturbance.apply(action, step, holding=expert.holding, distance=expert.distance)
        if env.step(action):
            return step + 1, None
    return None, None


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| task | success | 95 % interval | mean steps | most |", "|---|---|---|---|---|"]
    everything: list[int | None] = []
    for task in result["tasks"]:
        everything += task["steps"]
        name = task["instruction"] + (" (no skill)" if task["unsupported"] else "")
        lines.append(_row(name, task, task["steps"]))
    lines.append(_row("**all**", result["total"], everything))
    return "\n".join(lines) + "\n"


def _row(name: str, rate: dict[str, Any], steps: Sequence[int | None]) -> str:
    won = [s for s in steps if s is not None]
    low, high = rate["interval"]
    counts = f"{np.mean(won):.0f} | {max(won)}" if won else "- | -"
    return f"| {name} | {rate['successes']}/{rate['episodes']} | {low:.0%} - {high:.0%} | {counts} |"


def write(result: dict[str, Any], out: Path) -> None:
    """Put the suite's section into a page, in place of an earlier one made by the same command."""
    page = out.read_text() if out.exists() else HEADING
    head, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    title = f"## {result['suite']}{' under noise' if '--noise' in result['command'] else ''}\n"
    episodes = len(result["tasks"][0]["steps"])
    section = (
        f"{title}\n`{result['command']}` (commit {', '.join(result['commits'])}): initial states 0 to {episodes - 1} "
        f"of every task, the step limit of {result['limit']}.\n\n{table(result)}"
    )
    kept = [s.rstrip("\n") + "\n" for s in sections]
    titles = [s.partition("\n")[0] + "\n" for s in kept]
    if title in titles:
        kept[titles.index(title)] = section
    else:
        kept.append(section)
    with atomic_write(out) as file:
        file.write("\n".join([head.rstrip("\n") + "\n", *kept]).encode())
