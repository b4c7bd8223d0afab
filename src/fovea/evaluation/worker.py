"""A simulating process of a closed-loop evaluation: it steps scenes, the policy sits at the other end of the pipe.

Messages to the parent: ("observe", observation), ("done", record), ("error", text). Messages from it: an
`EpisodeStart` as a dict (begin), an action (7,) (go on), None (stop).
"""

import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from fovea.errors import FoveaError
from fovea.sim import EpisodeStart, LiberoEnv, RenderSettings

LIFTED = 0.04  # metres above where it stood


class Watch:
    """Which object the gripper goes for: the one first lifted, and the nearest when the fingers first close."""

    def __init__(self, env: LiberoEnv) -> None:
        self.env = env
        goal = env.sim_env.parsed_problem["goal_state"][0]
        self.target = str(goal[1])
        self.places = {str(part).split("_1")[0] + "_1" for part in goal[2:]}
        self.movable = [name for name in env.sim_env.objects_dict if name not in self.places]
        self.heights = {name: float(env.object_positions()[name][2]) for name in self.movable}
        self.first_lifted: dict[str, Any] | None = None
        self.first_close: dict[str, Any] | None = None

    def look(self, action: np.ndarray, step: int) -> None:
        """Note what happens at this step (before the action is played)."""
        positions = self.env.object_positions()
        if self.first_close is None and action[6] > 0:
            hand = self.env.state()[:3]
            distances = {n: float(np.linalg.norm(positions[n] - hand)) for n in self.movable}
            nearest = min(distances, key=lambda name: distances[name])
            self.first_close = {
                "object": nearest,
                "right": nearest == self.target,
                "distance": round(distances[nearest], 4),
                "target_distance": round(distances.get(self.target, float("nan")), 4),
                "step": step,
            }
        if self.first_lifted is None:
            for name in self.movable:
                if positions[name][2] - self.heights[name] > LIFTED:
                    self.first_lifted = {"object": name, "right": name == self.target, "step": step}
                    break


def serve(pipe: Connection, render: dict[str, Any]) -> None:
    """Play episodes until the parent says stop; keeps the last scene open, since building one takes seconds."""
    env: LiberoEnv | None = None
    settings = RenderSettings(**render)
    while (message := pipe.recv()) is not None:
        start = EpisodeStart(**message)
        try:
            if env is None or (env.task.suite, env.task.task_id) != (start.suite, start.task_id):
                if env is not None:
                    env.close()
                env = LiberoEnv(start.suite, start.task_id, render=settings)
            pipe.send(("done", play(env, start, pipe)))
        except FoveaError as error:
            pipe.send(("error", str(error)))


def play(env: LiberoEnv, start: EpisodeStart, pipe: Connection) -> dict[str, Any]:
    """One episode; returns its record without the policy's part."""
    began = time.monotonic()
    env.reset(start)
    watch = Watch(env)
    steps = 0
    while steps < env.max_steps and not env.success:
        pipe.send(("observe", env.observe()))
        action = pipe.recv()
        watch.look(action, steps)
        env.step(action)
        steps += 1
    return {
        "start": start.asdict(),
        "instruction": env.instruction,
        "target": watch.target,
        "success": env.success,
        "steps": steps,
        "max_steps": env.max_steps,
        "first_lifted": watch.first_lifted,
        "first_close": watch.first_close,
        "seconds": round(time.monotonic() - began, 2),
    }
