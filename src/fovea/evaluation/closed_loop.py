"""Closed-loop evaluation in LIBERO: processes simulate, one process asks the policy for whoever waits.

The list of episodes is made before anything runs, so the same seed gives the same episodes whatever the number of
workers. Finished episodes are lines of a JSONL file: a run that was stopped goes on behind them.
"""

import contextlib
import json
import multiprocessing
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from fovea.data.files import atomic_write, locked
from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor, Observation
from fovea.evaluation.episodes import episode_id
from fovea.evaluation.film import Films, write_film
from fovea.evaluation.worker import serve
from fovea.progress import progress_bar
from fovea.sim import EpisodeStart, RenderSettings
from fovea.sim.gl import single_threaded_children

DEATHS = 3  # a worker that dies this often at one episode stops the evaluation


def evaluate(
    actor: Actor,
    starts: Sequence[EpisodeStart],
    out: Path,
    *,
    workers: int = 2,
    render: RenderSettings | None = None,
    trained_on: Mapping[str, Any] | None = None,
    films: int | Sequence[int] = (),
    max_steps: int | None = None,
    label: str = "episodes",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Play every episode, or what is missing of them, and return their records in the order of `starts`.

    Non-obvious: the starts are the same whatever the number of workers, down to the last bit; the outcomes nearly
    so, since sums over a batch of another size may differ in the last bit and contact magnifies that.

    Args:
        actor: the policy.
        starts: how the episodes begin.
        out: folder; gets episodes.jsonl and videos/.
        workers: simulating processes. Two on two cores: the policy runs while they wait.
        render: how pictures are drawn; should be what the policy was trained on.
        trained_on: render settings of the policy's data set (`render` in its meta/fovea.json); warns if different.
        films: which episodes (positions in `starts`) become videos with heat maps; or one number n: the first n
            successes and n failures, of a task one of each at most. Early fusion only.
        max_steps: step limit; default the suite's own.

    Returns:
        Records: `id`, `policy`, `start`, `instruction`, `targets`, `success`, `steps`, `max_steps`, `first_lifted`,
        `first_close`, `final` (distances), `seconds`, `video` (relative to `out`, or None).

    Raises:
        FoveaError: a bad start, an action that is not finite, or a worker that dies again and again.
    """
    if workers < 1 or not starts or (max_steps is not None and max_steps < 1):
        raise FoveaError(
            f"expected at least one worker, episode and step, got {workers} workers, {len(starts)} episodes and "
            f"a limit of {max_steps} steps"
        )
    settings = (render or RenderSettings()).asdict()
    warn_if_different(settings, trained_on)
    unlike_usual = {k: v for k, v in settings.items() if v != RenderSettings().asdict()[k]}
    limit = {"max_steps": max_steps} if max_steps else {}
    identity = actor.identity + (
        json.dumps(unlike_usual | limit, sort_keys=True) if unlike_usual | limit else ""
    )
    ids = [episode_id(start, identity) for start in starts]
    if len(set(ids)) != len(ids):
        raise FoveaError(
            "expected every episode once, got the same start several times; change its seed or state"
        )
    path = out / "episodes.jsonl"
    with locked(out / ".lock", wait=False), progress_bar(visible=progress) as bar:
        _drop_cut_line(path)
        records = {record["id"]: record for record in read_records(path) if record["id"] in set(ids)}
        todo = deque(number for number, name in enumerate(ids) if name not in records)
        plan = Films(films, records.values())
        run = _Run(actor, list(starts), ids, out, settings, max_steps, plan, todo, bar.console.print)
        job = bar.add_task(label, total=len(starts), completed=len(records), note=_note(records))
        for record in run.play(workers):
            with path.open("a") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
            records[record["id"]] = record
            bar.update(job, advance=1, note=_note(records))
    return [records[name] for name in ids]


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a results file; a last line that was cut off by a kill is left out."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _drop_cut_line(path: Path) -> None:
    """What is appended must not join half a line."""
    whole = path.read_bytes() if path.exists() else b""
    if whole and not whole.endswith(b"\n"):
        with atomic_write(path) as file:
            file.write(whole[: whole.rfind(b"\n") + 1])


def warn_if_different(render: Mapping[str, Any], trained_on: Mapping[str, Any] | None) -> None:
    """A policy sees another world when its pictures are drawn otherwise than those it learned from: say so."""
    if trained_on is None:
        return
    keys = [key for key in render if key in trained_on and render[key] != trained_on[key]]
    if keys:
        shown = ", ".join(f"{key} {trained_on[key]} in training, {render[key]} here" for key in keys)
        warnings.warn(
            f"pictures are drawn otherwise than in the training data ({shown}); expect less success",
            stacklevel=3,
        )


def _note(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Successes so far, for the progress bar."""
    won = sum(record["success"] for record in records.values())
    return f"{won}/{len(records)} succeeded, {won / len(records):.0%}" if records else ""


@dataclass
class _Slot:
    """One worker process and the episode it plays (number -1: none)."""

    process: Any
    pipe: Connection
    number: int = -1
    state: Any = None
    kept: list[Observation] | None = None

    def send(self, message: Any) -> None:
        """A worker that has died is found when its pipe is read, not here."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)


@dataclass
class _Run:
    actor: Actor
    starts: list[EpisodeStart]
    ids: list[str]
    out: Path
    render: dict[str, Any]
    max_steps: int | None
    films: Films
    todo: deque[int]
    say: Callable[[str], None]
    slots: list[_Slot] = field(default_factory=list)
    deaths: dict[int, int] = field(default_factory=dict)

    def play(self, workers: int) -> Iterator[dict[str, Any]]:
        """Yield records as episodes finish."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for _ in range(min(workers, len(self.todo))):
                self.slots.append(_employ(self.render))
                self._give_work(self.slots[-1])
            while busy := {slot.pipe: slot for slot in self.slots if slot.number >= 0}:
                waiting: list[tuple[_Slot, Observation]] = []
                for slot in [busy[pipe] for pipe in wait(list(busy))]:  # type: ignore[index]
                    try:
                        kind, content = slot.pipe.recv()
                    except (EOFError, OSError):
                        self._replace(slot)
                        continue
                    if kind == "error":
                        raise FoveaError(content)
                    if kind == "observe":
                        waiting.append((slot, content))
                    else:
                        yield self._finish(slot, content)
                        self._give_work(slot)
                if waiting:
                    self._act(waiting)
        finally:
            torch.set_num_threads(threads)
            for slot in self.slots:
                slot.process.terminate()
                slot.process.join()

    def _give_work(self, slot: _Slot) -> None:
        slot.number = self._next_for(slot) if self.todo else -1
        if slot.number < 0:
            return
        slot.state = self.actor.new_episode()
        slot.kept = [] if self.films.may_want(slot.number) else None
        slot.send({"start": self.starts[slot.number].asdict(), "max_steps": self.max_steps})

    def _next_for(self, slot: _Slot) -> int:
        """An episode of the scene that the worker has open, else of the scene that fewest workers have open.

        Building a scene takes seconds, so workers stay in theirs as long as it has episodes.
        """
        mine = self._scene(slot.number) if slot.number >= 0 else None
        others = [
            self._scene(other.number) for other in self.slots if other is not slot and other.number >= 0
        ]

        def cost(number: int) -> tuple[bool, int]:
            return self._scene(number) != mine, others.count(self._scene(number))

        number = min(self.todo, key=cost)  # the first of the cheapest
        self.todo.remove(number)
        return number

    def _scene(self, number: int) -> tuple[str, int]:
        return self.starts[number].suite, self.starts[number].task_id

    def _act(self, waiting: list[tuple[_Slot, Observation]]) -> None:
        batch = self.actor.batch([observation for _, observation in waiting])
        actions = self.actor.act([slot.state for slot, _ in waiting], batch)
        for (slot, observation), action in zip(waiting, actions, strict=True):
            slot.send(action)
            if slot.kept is not None:
                slot.kept.append(observation)

    def _finish(self, slot: _Slot, content: dict[str, Any]) -> dict[str, Any]:
        record = {"id": self.ids[slot.number], "policy": self.actor.identity, **content, "video": None}
        if slot.kept and self.films.take(slot.number, record):
            video = self.out / "videos" / f"{record['id']}.mp4"
            write_film(video, slot.kept, self.actor)
            record["video"] = video.relative_to(self.out).as_posix()
        return record

    def _replace(self, slot: _Slot) -> None:
        """A worker died: its episode is played again by a new one, but not for ever."""
        slot.process.join()
        number, start, code = slot.number, self.starts[slot.number], slot.process.exitcode
        deaths = self.deaths[number] = self.deaths.get(number, 0) + 1
        who = (
            f"the simulating process {slot.process.pid} died (exit code {code}) at {start.suite} task "
            f"{start.task_id}, {start.layout} layout, initial state {start.init_state}, seed {start.seed}"
        )
        if deaths >= DEATHS:
            raise FoveaError(
                f"{who}, for the {deaths}. time. If it printed an error above, that is why; else free memory or use "
                "fewer --workers. Run the same command again to go on"
            )
        self.say(f"{who}; another one plays this episode again")
        self.todo.appendleft(number)
        fresh = _employ(self.render)
        self.slots[self.slots.index(slot)] = fresh
        self._give_work(fresh)


def _employ(render: dict[str, Any]) -> _Slot:
    """Start a worker: one thread, for simulation and for drawing."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, render), daemon=True)
    with single_threaded_children():
        process.start()
    theirs.close()
    return _Slot(process, ours)
