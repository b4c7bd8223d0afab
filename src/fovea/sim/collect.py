"""Demonstrations of the scripted expert, recorded as a LeRobotDataset v3.

Every episode is a pure function of (configuration, index): which worker records it, and after how many
interruptions, makes no difference. Finished episodes wait as files in a staging folder; the data set appears whole
at the end.
"""

import dataclasses
import multiprocessing
import queue
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fovea import __version__
from fovea.data.files import read_json
from fovea.data.staging import StagedEpisodes, check_same, claimed, is_validation, write_episode
from fovea.errors import FoveaError
from fovea.processes import ctrl_c_stays_here
from fovea.progress import progress_bar
from fovea.sim.disturb import Disturbance
from fovea.sim.env import LiberoEnv
from fovea.sim.gl import single_threaded_children
from fovea.sim.layout import TARGET_SUITE, EpisodeStart, check_layout
from fovea.sim.render import CAMERAS, RenderSettings
from fovea.sim.suites import check_targets, get_task, get_tasks

TRIES = 8  # an episode that fails is drawn again this often
NOISE_LEVELS = (0.0, 0.5, 1.0)  # of the configured noise; one is drawn for each episode
TAIL = 8  # steps that are still recorded once the goal holds: LIBERO says so before the object is let go
CHUNK = 6  # episodes of one task that a worker takes at a time


@dataclass(frozen=True)
class CollectConfig:
    """What to record.

    Attributes:
        out: folder of the data set; must not exist, unless it is the one to go on with.
        suite: LIBERO suite.
        tasks: task numbers; empty takes all.
        episodes: successful episodes a task.
        layout: "official" initial states; "drawn": object positions drawn anew (in libero_object any object is the
            target, in turn); or "spread": drawn, and the objects on the table anywhere among each other.
        init_states: first and last official initial state to start from (inclusive).
        holdout: object types that are never a target (drawn layouts of libero_object only); they stay in the scenes.
        noise: standard deviation of the noise on the executed action, in action units (1.0 = 5 cm).
        recoveries: share of episodes with pushes, early grasps or drops.
        val_share: share of the episodes that are marked as validation episodes; of the official states, where
            they come round again.
        image_size: side of the pictures in pixels.
        workers: processes, one core each.
        seed: draws everything.
    """

    out: Path = Path("outputs/data/libero_object")
    suite: str = "libero_object"
    tasks: list[int] = field(default_factory=list)
    episodes: int = 40
    layout: str = "official"
    init_states: list[int] = field(default_factory=lambda: [0, 29])
    holdout: list[str] = field(default_factory=list)
    noise: float = 0.2
    recoveries: float = 0.25
    val_share: float = 0.08
    image_size: int = 128
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_layout(self.layout, self.suite)
        if not 32 <= self.image_size <= 2048 or self.image_size % 2:
            raise FoveaError(
                f"--image_size: expected an even number from 32 to 2048 (of videos), got {self.image_size}"
            )
        for name, least in (("episodes", 1), ("workers", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise FoveaError(f"--{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("recoveries", "val_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise FoveaError(f"--{name}: expected a share between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.noise <= 1:
            raise FoveaError(f"--noise: expected 0 to 1 (1.0 = 5 cm a step), got {self.noise}")
        if len(self.init_states) != 2 or not 0 <= self.init_states[0] <= self.init_states[1]:
            raise FoveaError(f"--init_states: expected [first, last], got {self.init_states}")
        if len(set(self.tasks)) < len(self.tasks):
            raise FoveaError(f"--tasks: expected different numbers, got {self.tasks}")
        check_targets("--holdout", self.holdout)
        if self.holdout and (self.layout != "drawn" or self.suite != TARGET_SUITE):
            raise FoveaError(
                f"--holdout goes with --layout drawn of {TARGET_SUITE}: elsewhere a task picks its own object"
            )

    @property
    def task_ids(self) -> list[int]:
        """The tasks to record, all of the suite if none is named."""
        return list(self.tasks) or [task.task_id for task in get_tasks(self.suite)]

    @property
    def states(self) -> int:
        """How many official initial states there are to start from."""
        first, last = self.init_states
        return last - first + 1

    def identity(self) -> dict[str, Any]:
        """What decides the recorded episodes: everything but the folder, the workers and how many there are."""
        fields = dataclasses.asdict(self) | {"tasks": self.task_ids}
        for name in ("out", "workers", "episodes"):
            fields.pop(name)
        return fields


@dataclass(frozen=True)
class Job:
    """One episode to record: its number in the data set, its task and its number within the task."""

    index: int
    task_id: int
    number: int


def run(config: CollectConfig) -> dict[str, Any]:
    """Record the demonstrations and assemble the data set; goes on where an earlier run was stopped.

    Returns:
        `out`, `episodes`, `frames`, `rejected` (failed tries that were drawn again), `rejected_by_task`.

    Raises:
        FoveaError: unknown suite or task, a folder that holds something else, or a task that the expert cannot do.
    """
    for task_id in config.task_ids:
        get_task(config.suite, task_id)
    if (config.out / "meta" / "fovea.json").exists():
        meta = read_json(config.out / "meta" / "fovea.json", "record")
        check_same(meta.get("collection"), config.identity() | {"episodes": config.episodes}, config.out)
        return _summary(config, meta)
    with claimed(config.out, config.identity()) as staging:
        meta = _finish(config, staging)
    return _summary(config, meta)


def _finish(config: CollectConfig, staging: Path) -> dict[str, Any]:
    """Record what is missing and assemble the data set; its record."""
    from fovea.data.record import assemble

    jobs = _jobs(config)
    done = set(StagedEpisodes(staging).indices)
    if extra := len(done - {job.index for job in jobs}):
        raise FoveaError(
            f"{staging} holds {extra} episodes more than --episodes {config.episodes} asks for; ask for at least as "
            "many as before, or delete it"
        )
    todo = [job for job in jobs if job.index not in done]
    _record_all(config, staging, jobs, todo)
    rejected = dict.fromkeys(config.task_ids, 0)
    for job in jobs:
        rejected[job.task_id] += StagedEpisodes(staging).header(job.index)["rejected"]
    meta = {
        "fovea": __version__,
        "collection": config.identity() | {"episodes": config.episodes},
        "render": RenderSettings(image_size=config.image_size).asdict(),
        "rejected": sum(rejected.values()),
        "rejected_by_task": {str(task_id): count for task_id, count in rejected.items()},
    }
    assemble(staging, config.out, meta)
    shutil.rmtree(staging)
    return meta


def _summary(config: CollectConfig, meta: dict[str, Any]) -> dict[str, Any]:
    from fovea.data.record import totals

    counts = {"rejected": meta["rejected"], "rejected_by_task": meta.get("rejected_by_task", {})}
    return totals(config.out) | counts


def _jobs(config: CollectConfig) -> list[Job]:
    tasks = config.task_ids
    return [
        Job(number * len(tasks) + i, task_id, number)
        for number in range(config.episodes)
        for i, task_id in enumerate(tasks)
    ]


def _chunks(todo: list[Job]) -> list[list[Job]]:
    """Jobs of one task together, a few at a time: a scene takes seconds to build."""
    by_task: dict[int, list[Job]] = {}
    for job in todo:
        by_task.setdefault(job.task_id, []).append(job)
    return [jobs[i : i + CHUNK] for jobs in by_task.values() for i in range(0, len(jobs), CHUNK)]


def _record_all(config: CollectConfig, staging: Path, jobs: list[Job], todo: list[Job]) -> None:
    with progress_bar() as bar:
        task = bar.add_task("demonstrations", total=len(jobs), completed=len(jobs) - len(todo), note="")
        rejected = 0
        for failures in _work(config, staging, _chunks(todo)):
            rejected += failures
            bar.update(task, advance=1, note=f"{rejected} tries drawn again" if rejected else "")


def _work(config: CollectConfig, staging: Path, chunks: list[list[Job]]) -> Iterator[int]:
    """Record the chunks in worker processes; one number (failed tries) for each finished episode."""
    workers = min(config.workers, len(chunks))
    if workers <= 1:
        recorder = _Recorder(config, staging)
        for chunk in chunks:
            yield from map(recorder.record, chunk)
        return
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    # neighbours in the list share a task: each worker gets one stretch of it
    shares = np.array_split(np.arange(len(chunks)), workers)
    processes = [
        context.Process(
            target=_worker, args=(config, staging, [chunks[i] for i in share], results), daemon=True
        )
        for share in shares
    ]
    with single_threaded_children(), ctrl_c_stays_here():
        for process in processes:
            process.start()
    try:
        yield from _gather(results, processes, sum(map(len, chunks)))
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _gather(results: Any, processes: list[Any], total: int) -> Iterator[int]:
    for _ in range(total):
        while True:
            try:
                result = results.get(timeout=1.0)
                break
            except queue.Empty:
                if not any(process.is_alive() for process in processes) and results.empty():
                    raise FoveaError(
                        "expected the collecting processes to finish, they died (out of memory?); run the same "
                        "command again to go on, with fewer --workers"
                    ) from None
        if isinstance(result, str):
            raise FoveaError(result)
        yield result


def _worker(config: CollectConfig, staging: Path, chunks: list[list[Job]], results: Any) -> None:
    recorder = _Recorder(config, staging)
    try:
        for chunk in chunks:
            for job in chunk:
                results.put(recorder.record(job))
    except FoveaError as error:
        results.put(str(error))


class _Recorder:
    """Records episodes in one process, with one scene kept open at a time."""

    def __init__(self, config: CollectConfig, staging: Path) -> None:
        self.config, self.staging = config, staging
        self.env: LiberoEnv | None = None

    def _scene(self, task_id: int) -> LiberoEnv:
        if self.env is None or self.env.task.task_id != task_id:
            if self.env is not None:
                self.env.close()
            self.env = LiberoEnv(self.config.suite, task_id, image_size=self.config.image_size)
        return self.env

    def record(self, job: Job) -> int:
        """Record one successful episode; how many tries failed before it.

        Raises:
            FoveaError: if the expert fails again and again.
        """
        env, solved = self._scene(job.task_id), 0
        for attempt in range(TRIES):
            rng = np.random.default_rng([self.config.seed, job.task_id, job.number, attempt])
            start = draw_start(self.config, env, job, rng)
            env.reset(start)
            if env.solved_at_reset:
                solved += 1
                continue
            episode = record_episode(env, rng, self.config.noise, self.config.recoveries)
            if episode is not None:
                header = episode.pop("header") | {
                    "start": start.asdict(),
                    "task": env.instruction,
                    "split": "val" if held_for_validation(self.config, job.number) else "train",
                    "rejected": attempt,
                }
                write_episode(self.staging, job.index, header=header, **episode)
                return attempt
        if solved == TRIES:
            raise FoveaError(
                f"the goal of {self.config.suite} task {job.task_id} ({env.instruction}) holds before anything is "
                "done; choose other --init_states, or leave the task out with --tasks"
            )
        raise FoveaError(
            f"the scripted expert failed {TRIES} times at {self.config.suite} task {job.task_id} "
            f"({env.instruction}); lower --noise or --recoveries, or leave the task out"
        )


def held_for_validation(config: CollectConfig, number: int) -> bool:
    """Whether a task's number-th episode is for validation.

    Official states come round again after so many episodes: whole states are held out then, or validation would show
    layouts that were trained on. Too few states for that share one with training.
    """
    round_again = config.layout == "official" and int(config.states * config.val_share) > 0
    return is_validation(number % config.states if round_again else number, config.val_share)


def draw_start(config: CollectConfig, env: LiberoEnv, job: Job, rng: np.random.Generator) -> EpisodeStart:
    """How the episode of a job starts.

    Raises:
        FoveaError: if every object of the scene is held out, or the init states are out of range.
    """
    first, last = config.init_states
    if last >= env.init_state_count:
        raise FoveaError(
            f"--init_states: {config.suite} has states 0 to {env.init_state_count - 1}, got {last}"
        )
    if config.layout == "official":
        state = first + job.number % config.states
        return EpisodeStart(config.suite, job.task_id, state, seed=int(rng.integers(2**31)))
    targets = _targets(config, env)
    return EpisodeStart(
        config.suite,
        job.task_id,
        int(rng.integers(first, last + 1)),
        layout=config.layout,
        target=targets[job.number % len(targets)],
        seed=int(rng.integers(2**31)),
    )


def _targets(config: CollectConfig, env: LiberoEnv) -> Sequence[str | None]:
    """The objects that a scene's drawn layouts name in turn; None is the task's own."""
    if config.suite != TARGET_SUITE:
        return [None]
    objects = sorted(name.removesuffix("_1") for name in env.object_names if not name.startswith("basket"))
    targets = [name for name in objects if name not in config.holdout]
    if not targets:
        raise FoveaError(
            f"--holdout leaves no target in task {env.task.task_id}: its objects are {', '.join(objects)}"
        )
    return targets


def record_episode(
    env: LiberoEnv, rng: np.random.Generator, noise: float, recoveries: float
) -> dict[str, Any] | None:
    """Let the expert act in a freshly reset environment.

    Returns:
        images (n, 2, h, w, 3), state (n, 8), action (n, 7) and a header; None if the goal was not reached in time.
    """
    from fovea.sim.expert import NoGrasp

    try:
        return _play(env, rng, noise, recoveries)
    except NoGrasp:  # something fell so that the fingers cannot take it: a failed try like any other
        return None


def _play(env: LiberoEnv, rng: np.random.Generator, noise: float, recoveries: float) -> dict[str, Any] | None:
    from fovea.sim.expert import Expert

    level = noise * float(rng.choice(NOISE_LEVELS))
    recovery = bool(rng.random() < recoveries)
    disturbance = Disturbance(rng, level, recovery)
    expert = Expert(env)
    images, states, actions = [], [], []
    left = TAIL
    for step in range(env.max_steps):
        action = expert.act()
        observation = env.observe()
        images.append(np.stack([observation[f"observation.images.{key}"] for key in CAMERAS]))
        states.append(observation["observation.state"])
        actions.append(action)
        executed = disturbance.apply(action, step, holding=expert.holding, distance=expert.distance)
        done = env.step(executed) or left < TAIL
        left -= done
        if left == 0:
            break
    if left == TAIL or not env.success:
        return None
    return {
        "images": np.stack(images),
        "state": np.stack(states),
        "action": np.stack(actions).astype(np.float32),
        "header": {"noise": level, "recovery": recovery},
    }
