"""Hands the episodes of an evaluation to its workers, and their observations to the policy."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor, Observation
from fovea.evaluation.engines import Engine, Worker, WorkerDied
from fovea.evaluation.film import Films, write_film
from fovea.sim import EpisodeStart
from fovea.threads import torch_threads

DEATHS = 3  # an episode at which workers die this often, or workers that die this often at birth, stop the evaluation


@dataclass(eq=False)
class Slot:
    """One worker and the episode it plays (number -1: none; `idle`: it is ready and there was none left)."""

    worker: Worker
    number: int = -1
    idle: bool = False
    state: Any = None
    kept: list[Observation] | None = None


@dataclass
class Dispatch:
    """One run over episodes that are still to be played.

    Args:
        actor: the policy.
        starts, ids: all episodes of the evaluation, and what they are called.
        todo: numbers of those to play.
        out: folder for videos.
        render, max_steps: for the workers.
        films: which become videos.
        engine: makes the workers.
        say: prints a line for the user.
    """

    actor: Actor
    starts: Sequence[EpisodeStart]
    ids: Sequence[str]
    todo: deque[int]
    out: Path
    render: dict[str, Any]
    max_steps: int | None
    films: Films
    engine: Engine
    say: Callable[[str], None]
    slots: list[Slot] = field(default_factory=list)
    deaths: dict[int, int] = field(default_factory=dict)

    def play(self, workers: int) -> Iterator[dict[str, Any]]:
        """Yield records as episodes finish.

        Raises:
            FoveaError: what a simulator or the policy refuses, or workers that die again and again.
        """
        self._clock = time.monotonic()
        with torch_threads(1):
            yield from self._play(workers)

    def _play(self, workers: int) -> Iterator[dict[str, Any]]:
        try:
            for _ in range(min(workers, len(self.todo))):
                self._employ()
            while self.todo or any(slot.number >= 0 for slot in self.slots):
                waiting: list[tuple[Slot, Observation]] = []
                for slot in self._speaking():
                    try:
                        kind, content = slot.worker.receive()
                    except WorkerDied as death:
                        self._replace(slot, str(death))
                        continue
                    if kind == "error":
                        raise FoveaError(content)
                    if kind == "observe":
                        waiting.append((slot, content))
                        continue
                    if kind == "done":
                        yield self._finish(slot, content)
                    self._give_work(slot)
                if waiting:
                    self._act(waiting)
        finally:
            for slot in self.slots:
                slot.worker.stop()

    def _employ(self) -> None:
        self.slots.append(Slot(self.engine.employ(self.render)))

    def _speaking(self) -> list[Slot]:
        """Those who answer first; an idle worker was asked nothing."""
        by_worker = {id(slot.worker): slot for slot in self.slots if not slot.idle}
        workers = [slot.worker for slot in by_worker.values()]
        return [by_worker[id(worker)] for worker in self.engine.wait(workers)]

    def _give_work(self, slot: Slot) -> None:
        slot.number = self._next_for(slot) if self.todo else -1
        slot.idle = slot.number < 0
        if slot.idle:
            return
        slot.state = self.actor.new_episode(int(self.ids[slot.number], 16))
        slot.kept = [] if self.films.may_want(slot.number) else None
        slot.worker.send({"start": self.starts[slot.number].asdict(), "max_steps": self.max_steps})

    def _next_for(self, slot: Slot) -> int:
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

    def _act(self, waiting: list[tuple[Slot, Observation]]) -> None:
        batch = self.actor.batch([observation for _, observation in waiting])
        filmed = [slot.kept is not None for slot, _ in waiting]
        plays = self.actor.play([slot.state for slot, _ in waiting], batch, every_frame=filmed)
        for (slot, observation), actions in zip(waiting, plays, strict=True):
            slot.worker.send(actions)
            if slot.kept is not None:
                slot.kept.append(observation)

    def _finish(self, slot: Slot, content: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic()
        record = {"id": self.ids[slot.number], "policy": self.actor.identity, **content, "video": None}
        record["wall_seconds"] = round(now - self._clock, 3)
        self._clock = now
        if slot.kept and self.films.take(slot.number, record):
            video = self.out / "videos" / f"{record['id']}.mp4"
            write_film(video, slot.kept, self.actor)
            record |= {"video": video.relative_to(self.out).as_posix(), "maps": self.actor.has_maps}
        return record

    def _replace(self, slot: Slot, death: str) -> None:
        """A worker died: its episode is played again, by whoever is free or by a new one, but not for ever."""
        self.slots.remove(slot)
        number = slot.number
        deaths = self.deaths[number] = self.deaths.get(number, 0) + 1
        if number >= 0:
            start = self.starts[number]
            death += (
                f" at {start.suite} task {start.task_id}, {start.layout} layout, initial state {start.init_state}, "
                f"seed {start.seed}"
            )
            self.todo.appendleft(number)
        else:
            death += " before it could begin"
        if deaths >= DEATHS:
            raise FoveaError(
                f"{death}, for the {deaths}. time. If it printed an error above, that is why; else free memory or use "
                "fewer --workers. Run the same command again to go on"
            )
        self.say(
            f"{death}; " + ("another one plays this episode again" if number >= 0 else "starting another one")
        )
        for other in self.slots:
            if other.idle:
                self._give_work(other)
        if self.todo:
            self._employ()
