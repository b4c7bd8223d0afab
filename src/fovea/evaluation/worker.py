"""A simulating process of a closed-loop evaluation: it steps scenes, the policy sits at the other end of the pipe.

Messages to the parent: ("observe", observation), ("done", record), ("error", text). Messages from it: an
`EpisodeStart` as a dict with a step limit (begin), an action (7,) (go on), None (stop).
"""

import signal
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from fovea.errors import FoveaError
from fovea.sim import EpisodeStart, LiberoEnv, RenderSettings

LIFTED = 0.04  # metres above where it stood


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
        self.places = {place for goal in goals for place in env.object_names if _names(place, goal[2:])}
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


def _names(place: str, parts: list[str]) -> bool:
    """Whether a goal's place or region ("basket_1", "basket_1_contain_region") belongs to an object."""
    return any(part == place or part.startswith(f"{place}_") for part in parts)


def serve(pipe: Connection, render: dict[str, Any]) -> None:
    """Play episodes until the parent says stop; keeps the last scene open, since building one takes seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends the workers
    env: LiberoEnv | None = None
    settings = RenderSettings(**render)
    while (message := pipe.recv()) is not None:
        try:
            start = EpisodeStart(**message["start"])
            if env is None or (env.task.suite, env.task.task_id) != (start.suite, start.task_id):
                if env is not None:
                    env.close()
                env = LiberoEnv(start.suite, start.task_id, render=settings)
            pipe.send(("done", play(env, start, pipe, message["max_steps"] or env.max_steps)))
        except FoveaError as error:
            pipe.send(("error", str(error)))


def play(env: LiberoEnv, start: EpisodeStart, pipe: Connection, max_steps: int) -> dict[str, Any]:
    """One episode; returns its record without the policy's part."""
    began = time.monotonic()
    env.reset(start)
    watch = Watch(env)
    steps = 0
    while steps < max_steps and not env.success:
        pipe.send(("observe", env.observe()))
        action = pipe.recv()
        watch.look(steps, action[-1])
        env.step(action)
        steps += 1
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
