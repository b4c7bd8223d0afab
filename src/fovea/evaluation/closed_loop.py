"""Closed-loop evaluation in LIBERO: processes simulate, one process asks the policy for whoever waits.

The list of episodes is made before anything runs, so the same seed gives the same episodes whatever the number of
workers. Finished episodes are lines of a JSONL file: a run that was stopped goes on behind them.
"""

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor, Observation
from fovea.evaluation.episodes import episode_id
from fovea.evaluation.worker import serve
from fovea.lens.overlay import episode_frames, split_words
from fovea.lens.video import write_video
from fovea.progress import progress_bar
from fovea.sim import EpisodeStart, RenderSettings

DEATHS = 2  # a worker that dies at the same episode this often stops the evaluation


@dataclass
class _Film:
    """What is kept of an episode that becomes a video."""

    pictures: dict[str, list[np.ndarray]] = field(default_factory=dict)
    maps: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, observation: Observation, maps: np.ndarray) -> None:
        cameras = sorted(key for key in observation if key.startswith("observation.images."))
        for camera, key in enumerate(cameras):
            name = key.removeprefix("observation.images.")
            self.pictures.setdefault(name, []).append(observation[key])
            self.maps.setdefault(name, []).append(maps[camera])

    def write(self, path: Path, instruction: str) -> None:
        words = split_words(instruction)
        count = next(iter(self.maps.values()))[0].shape[0]
        words = [*words, *["·"] * count][:count]  # an encoder may split words or see fewer of them
        pictures = {name: np.stack(frames) for name, frames in self.pictures.items()}
        maps = {name: np.stack(frames) for name, frames in self.maps.items()}
        write_video(episode_frames(pictures, maps, words, side=256), path, quality=29)


@dataclass
class _Slot:
    """One worker process and the episode it plays."""

    process: Any
    pipe: Connection
    number: int = -1
    state: Any = None
    film: _Film | None = None


def evaluate(
    actor: Actor,
    starts: Sequence[EpisodeStart],
    out: Path,
    *,
    workers: int = 2,
    render: RenderSettings | None = None,
    films: Sequence[int] = (),
    label: str = "episodes",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Play every episode, or what is missing of them, and return their records in the order of `starts`.

    Args:
        actor: the policy.
        starts: how the episodes begin.
        out: folder; gets episodes.jsonl and videos/.
        workers: simulating processes. Two on two cores: the policy runs while they wait.
        render: how pictures are drawn; should be what the policy was trained on.
        films: which episodes (positions in `starts`) become videos with heat maps; early fusion only.

    Returns:
        Records: `id`, `start`, `instruction`, `success`, `steps`, `first_lifted`, `first_close`, `seconds`, `video`.

    Raises:
        FoveaError: a bad start, an action that is not finite, or a worker that dies again and again.
    """
    out.mkdir(parents=True, exist_ok=True)
    ids = [episode_id(start, actor.identity) for start in starts]
    path = out / "episodes.jsonl"
    records = {record["id"]: record for record in read_records(path) if record["id"] in set(ids)}
    todo = deque(number for number, name in enumerate(ids) if name not in records)
    run = _Run(actor, list(starts), ids, out, render or RenderSettings(), set(films), records, todo)
    with progress_bar(visible=progress) as bar:
        job = bar.add_task(label, total=len(starts), completed=len(records), note=run.note())
        for record in run.play(workers):
            with path.open("a") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
            records[record["id"]] = record
            bar.update(job, advance=1, note=run.note())
    return [records[name] for name in ids]


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a results file; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


@dataclass
class _Run:
    actor: Actor
    starts: list[EpisodeStart]
    ids: list[str]
    out: Path
    render: RenderSettings
    films: set[int]
    records: dict[str, dict[str, Any]]
    todo: deque[int]
    deaths: dict[int, int] = field(default_factory=dict)

    def note(self) -> str:
        """Successes so far, for the progress bar."""
        won = sum(record["success"] for record in self.records.values())
        return f"{won}/{len(self.records)} succeeded" if self.records else ""

    def play(self, workers: int) -> Any:
        """Yield records as episodes finish."""
        context = multiprocessing.get_context("spawn")
        if workers < 1:
            raise FoveaError(f"--workers: expected at least 1, got {workers}")
        slots: list[_Slot] = []
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for _ in range(min(workers, len(self.todo))):
                slots.append(self._employ(context))
                self._give_work(slots[-1])
            while any(slot.number >= 0 for slot in slots):
                busy = {slot.pipe: slot for slot in slots if slot.number >= 0}
                ready = [busy[pipe] for pipe in wait(list(busy))]  # type: ignore[index]
                waiting: list[tuple[_Slot, Observation]] = []
                for slot in ready:
                    try:
                        kind, content = slot.pipe.recv()
                    except EOFError:
                        self._replace(slots, slot, context)
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
            for slot in slots:
                slot.process.terminate()
                slot.process.join()

    def _employ(self, context: Any) -> _Slot:
        ours, theirs = context.Pipe()
        before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS")}
        os.environ.update(OMP_NUM_THREADS="1", LP_NUM_THREADS="1")
        try:
            process = context.Process(target=serve, args=(theirs, self.render.asdict()), daemon=True)
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        return _Slot(process, ours)

    def _give_work(self, slot: _Slot) -> None:
        if not self.todo:
            slot.number = -1
            return
        slot.number = self._next_for(slot)
        slot.state = self.actor.new_episode()
        slot.film = _Film() if slot.number in self.films else None
        slot.pipe.send(self.starts[slot.number].asdict())

    def _next_for(self, slot: _Slot) -> int:
        """The next episode, of the scene that the worker has open if there is one: building a scene takes seconds."""
        if slot.number >= 0:
            scene = self._scene(slot.number)
            for number in self.todo:
                if self._scene(number) == scene:
                    self.todo.remove(number)
                    return number
        # another worker's scene would be built twice: begin at the far end
        scenes = [self._scene(number) for number in self.todo]
        rarest = min(range(len(scenes)), key=lambda i: (self._open.count(scenes[i]), i))
        number = self.todo[rarest]
        self.todo.remove(number)
        self._open.append(self._scene(number))
        return number

    def _scene(self, number: int) -> tuple[str, int]:
        return self.starts[number].suite, self.starts[number].task_id

    _open: list[tuple[str, int]] = field(default_factory=list)

    def _act(self, waiting: list[tuple[_Slot, Observation]]) -> None:
        batch = self.actor.batch([observation for _, observation in waiting])
        actions = self.actor.act([slot.state for slot, _ in waiting], batch)
        for row, (slot, observation) in enumerate(waiting):
            slot.pipe.send(actions[row])
            if slot.film is not None:
                slot.film.add(observation, self.actor.look(batch, row)[0])

    def _finish(self, slot: _Slot, content: dict[str, Any]) -> dict[str, Any]:
        record = {"id": self.ids[slot.number], "policy": self.actor.identity, **content, "video": None}
        if slot.film is not None:
            video = self.out / "videos" / f"{record['id']}.mp4"
            slot.film.write(video, record["instruction"])
            record["video"] = video.relative_to(self.out).as_posix()
        return record

    def _replace(self, slots: list[_Slot], slot: _Slot, context: Any) -> None:
        """A worker died: its episode is played again by a new one, but not for ever."""
        number = slot.number
        self.deaths[number] = self.deaths.get(number, 0) + 1
        slot.process.join()
        start = self.starts[number]
        if self.deaths[number] > DEATHS:
            raise FoveaError(
                f"the simulator died {self.deaths[number]} times (exit code {slot.process.exitcode}) at "
                f"{start.suite} task {start.task_id}, initial state {start.init_state}; free memory or use fewer "
                "--workers, then run the same command again"
            )
        self.todo.appendleft(number)
        slots[slots.index(slot)] = fresh = self._employ(context)
        self._give_work(fresh)
