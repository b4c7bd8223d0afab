"""Dragging a plate over the table from inside its rim."""

from collections.abc import Sequence

import numpy as np

from fovea.sim.expert.destination import Destination
from fovea.sim.expert.grasp import nearest_down, turn_between
from fovea.sim.expert.motion import CLOSE, UP, highest_on_way, move
from fovea.sim.expert.scene import Array, Scene


class Drag:
    """Press closed fingers into a flat vessel and drag it to a place on the table.

    From outside the far side of a plate may be out of reach, between plate and cabinet for instance.

    Args:
        scene: privileged view.
        predicate: ("on", object, region of the table).
    """

    AHEAD = 0.03  # of the middle, where the fingers press
    NEAR = 0.008  # from the place, near enough
    holding = False

    def __init__(self, scene: Scene, predicate: Sequence[str]) -> None:
        self.scene, self.predicate, self.name = scene, predicate, predicate[1]
        self.destination = Destination(scene, self.name, predicate[2])
        self._pressing, self._leaving = False, 0

    @property
    def distance(self) -> float:
        """From the grip site to the object, metres."""
        return float(np.linalg.norm(self.scene.object_position(self.name) - self.scene.position))

    @property
    def finished(self) -> bool:
        """Whether the object is where it should be and the hand is off it."""
        return not self._pressing and self.scene.holds(self.predicate)

    def act(self) -> Array:
        """(7,) next action."""
        scene = self.scene
        origin = scene.object_position(self.name)
        way = self.destination.middle[:2] - origin[:2]
        left = float(np.linalg.norm(way))
        if left < self.NEAR:
            self._leaving = self._leaving or 15
        if self._leaving:
            self._leaving -= 1
            self._pressing = self._leaving > 0
            return move(scene, scene.position + 0.05 * UP, scene.rotation, CLOSE)
        u = way / left
        rotation = nearest_down(scene.rotation, float(np.arctan2(u[0], -u[1])))
        points = scene.points(self.name)
        spot = origin[:2] + self.AHEAD * u
        near = points[np.linalg.norm(points[:, :2] - spot, axis=1) < 0.02]
        floor = float(near[:, 2].max()) if len(near) else float(points[:, 2].min()) + 0.006
        press = np.array([*spot, floor + 0.004])
        error = press - scene.position
        inside = float(np.linalg.norm(scene.position[:2] - origin[:2])) < 0.075
        twist = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
        if inside and scene.position[2] < floor + 0.022 and twist < 0.5:
            self._pressing = True
            step = np.array([*(u * min(0.05, left + 0.01)), floor - 0.004 - scene.position[2]])
            across = error[:2] - (error[:2] @ u) * u
            step[:2] += 0.3 * across
            return move(scene, scene.position + step, rotation, CLOSE)
        aside = float(np.hypot(error[0], error[1]))
        height = float(np.clip(5.0 * (aside - 0.008) + 0.3 * max(0.0, twist - 0.1), 0.0, 0.08))
        if aside > 0.06:
            top = highest_on_way(scene.obstacles(), scene.position, press, 0.07)
            height = max(height, top + 0.045 - press[2])
        return move(scene, press + height * UP, rotation, CLOSE, speed=0.5 if aside < 0.03 else 1.0)
