"""What simulates in a closed-loop evaluation: it steps scenes, the policy sits elsewhere.

One answer for each message, whatever carries them (a pipe, Ray): an `EpisodeStart` as a dict with a step limit begins
an episode, actions (K, 7) go on with it, and only the frame behind the last of them is drawn; the answer is
("observe", observation), ("done", record) or ("error", text).
"""

import time
from collections.abc import Generator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from fovea.errors import FoveaError
from fovea.sim import EpisodeStart, LiberoEnv, RenderSettings
from fovea.sim.bddl import is_of

LIFTED = 0.04  # metres above where it stood

Message = tuple[str, Any]
Episode = Generator[dict[str, Any], np.ndarray, dict[str, Any]]


class Watch:
    """Which object the gripper goes for: the one first lifted, and the nearest when the fingers first close.

    `right` says whether that was an object that the goal moves; None where the goal moves none (a drawer).
    Distances in metres from the gripper's grip site to an object's centre.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self.env = env
        goals = [[str(part) for part in goal] for goal in env.sim_env.parsed_problem["goal_state"]]
        objects = list(env.sim_env.objects_dict)
        self.targets = [goal[1] for goal in goals if goal[1] in objects]
        named = [part for goal in goals for part in goal[2:]]
        self.places = {place for place in env.object_names if any(is_of(part, place) for part in named)}
        self.movable = [name for name in objects if name not in self.places or name in self.targets]
        self.heights = {name: place[2] for name, place in env.object_positions().items()}
        self.first_lifted: dict[str, Any] | None = None
        self.first_close: dict[str, Any] | None = None

    def look(self, step: int, gripper: float) -> None:
        """Note what has happened by this step; `gripper` is the action's last entry, above 0 to close."""
        closes = self.first_close is None and gripper > 0 and self.movable
        if not closes and self.first_lifted is not None:
            return
        positions = self.env.object_positions()
        if closes:
            far = self._distances(positions)
            nearest = min(far, key=lambda name: far[name])
            wanted = min((far[name] for name in self.targets), default=None)
            self.first_close = self._event(nearest, step) | {
                "distance": round(far[nearest], 4),
                "target_distance": None if wanted is None else round(wanted, 4),
            }
        for name in self.movable:
            if self.first_lifted is None and positions[name][2] - self.heights[name] > LIFTED:
                self.first_lifted = self._event(name, step)

    def final(self) -> dict[str, float | None]:
        """How far the first target ended from the gripper, and (over the ground) from the place it should go to."""
        if not self.targets:
            return {"gripper_to_target": None, "target_to_place": None}
        positions, target = self.env.object_positions(), self.targets[0]
        places = [positions[place] for place in self.places - set(self.targets)]
        gaps = [float(np.linalg.norm((positions[target] - place)[:2])) for place in places]
        return {
            "gripper_to_target": round(self._distances(positions)[target], 4),
            "target_to_place": round(min(gaps), 4) if gaps else None,
        }

    def _event(self, name: str, step: int) -> dict[str, Any]:
        return {"object": name, "right": name in self.targets if self.targets else None, "step": step}

    def _distances(self, positions: dict[str, Any]) -> dict[str, float]:
        hand = self.env.state()[:3]
        return {name: float(np.linalg.norm(positions[name] - hand)) for name in self.movable}


class Simulator:
    """Plays one episode at a time; keeps the last scene open, since building one takes seconds.

    Args:
        render: `RenderSettings` as a dict.
    """

    def __init__(self, render: dict[str, Any]) -> None:
        self._settings = RenderSettings(**render)
        self._env: LiberoEnv | None = None
        self._episode: Episode | None = None

    def ready(self) -> Message:
        """The first message of all: this simulator can begin."""
        return "ready", None

    def answer(self, message: Any) -> Message:
        """Begin an episode or go on with it; see the module's docstring."""
        try:
            if isinstance(message, dict):
                self._episode = self._begin(EpisodeStart(**message["start"]), message["max_steps"])
                return "observe", next(self._episode)
            if self._episode is None:
                raise FoveaError("expected an episode's start before its first actions")
            return "observe", self._episode.send(message)
        except StopIteration as end:
            return "done", end.value
        except FoveaError as error:
            return "error", str(error)

    def _begin(self, start: EpisodeStart, max_steps: int | None) -> Episode:
        env, self._env = self._env, None  # whatever fails below leaves no broken scene behind
        if env is None or (env.task.suite, env.task.task_id) != (start.suite, start.task_id):
            if env is not None:
                env.close()
            env = LiberoEnv(start.suite, start.task_id, render=self._settings)
        self._env = env
        return play(env, start, max_steps or env.max_steps)


def serve(pipe: Connection, render: dict[str, Any]) -> None:
    """A simulator at the end of a pipe, until the parent sends None."""
    simulator = Simulator(render)
    pipe.send(simulator.ready())
    while (message := pipe.recv()) is not None:
        pipe.send(simulator.answer(message))


def play(env: LiberoEnv, start: EpisodeStart, max_steps: int) -> Episode:
    """One episode: yields observations, is sent actions, returns its record without the policy's part."""
    began = time.monotonic()
    env.reset(start)
    watch = Watch(env)
    steps = 0
    while steps < max_steps and not env.success:
        actions = yield env.observe()
        for action in actions:
            watch.look(steps, action[-1])
            env.step(action)
            steps += 1
            if steps == max_steps or env.success:
                break
    watch.look(steps, -1.0)
    return {
        "start": start.asdict(),
        "instruction": env.instruction,
        "targets": watch.targets,
        "success": env.success,
        "steps": steps,
        "max_steps": max_steps,
        "first_lifted": watch.first_lifted,
        "first_close": watch.first_close,
        "final": watch.final(),
        "seconds": round(time.monotonic() - began, 2),
    }
