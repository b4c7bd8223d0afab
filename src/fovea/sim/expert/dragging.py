"""Dragging a plate over the table from inside its rim."""

from collections.abc import Sequence

import numpy as np

from fovea.sim.expert.destination import Destination
from fovea.sim.expert.grasp import HOME_YAW, clearance, nearest_down, turn_between
from fovea.sim.expert.motion import CLOSE, UP, highest_on_way, move
from fovea.sim.expert.scene import Array, Scene

HEIGHT = -0.012  # of the grip site above the floor of the vessel: the fingertips press on it


class Drag:
    """Press closed fingers into a flat vessel and drag it to a place on the table.

    From outside the far side of a plate may be out of reach, between plate and cabinet for instance.

    Args:
        scene: privileged view.
        predicate: ("on", object, region of the table).
    """

    AHEAD = -0.025  # of the middle, where the fingers press first: they creep forward on the way
    NEAR = 0.008  # from the place, near enough
    holding = False

    def __init__(self, scene: Scene, predicate: Sequence[str]) -> None:
        self.scene, self.predicate, self.name = scene, predicate, predicate[1]
        self.destination = Destination(scene, self.name, predicate[2])
        self._pressing, self._leaving = False, 0
        self._yaw: float | None = None

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
        points = scene.points(self.name)
        radius = float(np.linalg.norm(points[:, :2] - origin[:2], axis=1).max())
        obstacles = scene.obstacles(self.name)
        low = obstacles[obstacles[:, 2] < points[:, 2].max() + 0.03][:, :2]
        way = self._goal(low, radius) - origin[:2]
        left = float(np.linalg.norm(way))
        if left < self.NEAR:
            self._leaving = self._leaving or 15
        if self._leaving:
            self._leaving -= 1
            self._pressing = self._leaving > 0
            return move(scene, scene.position + 0.05 * UP, scene.rotation, CLOSE)
        u = self._around(way / left, low - origin[:2], radius)
        spot = origin[:2] + self.AHEAD * way / left
        if self._yaw is None:
            self._yaw = self._free_yaw(spot, float(points[:, 2].max()), obstacles)
        rotation = nearest_down(scene.rotation, self._yaw)
        near = points[np.linalg.norm(points[:, :2] - spot, axis=1) < 0.02]
        floor = float(near[:, 2].max()) if len(near) else float(points[:, 2].min()) + 0.006
        press = np.array([*spot, floor + 0.004])
        error = press - scene.position
        inside = float(np.linalg.norm(scene.position[:2] - origin[:2])) < 0.075
        twist = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
        if inside and scene.position[2] < floor + 0.022 and twist < 0.5:
            self._pressing = True
            step = np.array([*(u * min(0.035, left + 0.01)), floor + HEIGHT - scene.position[2]])
            across = error[:2] - (error[:2] @ u) * u
            step[:2] += 0.3 * across
            return move(scene, scene.position + step, rotation, CLOSE)
        aside = float(np.hypot(error[0], error[1]))
        height = float(np.clip(5.0 * (aside - 0.008) + 0.3 * max(0.0, twist - 0.1), 0.0, 0.08))
        if aside > 0.06:
            top = highest_on_way(scene.obstacles(), scene.position, press, 0.07)
            height = max(height, top + 0.045 - press[2])
        return move(scene, press + height * UP, rotation, CLOSE, speed=0.5 if aside < 0.03 else 1.0)

    @staticmethod
    def _free_yaw(spot: Array, height: float, obstacles: Array) -> float:
        """The hand's yaw with which it has room over the vessel, the nearest to that of the arm at rest."""
        yaws = [HOME_YAW, HOME_YAW - 0.8, HOME_YAW + 0.8, 0.0]
        rooms = [clearance(spot, yaw, height, obstacles) for yaw in yaws]
        return next((yaw for yaw, room in zip(yaws, rooms, strict=True) if room > 0.025), yaws[-1])

    def _goal(self, obstacles: Array, radius: float) -> Array:
        """(2,) the spot of the region that is nearest to its middle among those where the vessel has room."""
        spots = [self.destination.middle[:2] + spot for spot in self.destination.spots()]

        def cost(spot: Array) -> float:
            room = float(np.linalg.norm(obstacles - spot, axis=1).min()) - radius if len(obstacles) else 1.0
            return float(np.linalg.norm(spot - self.destination.middle[:2])) + 20 * max(0.0, 0.005 - room)

        return min(spots, key=cost)

    @staticmethod
    def _around(u: Array, obstacles: Array, radius: float) -> Array:
        """A direction that slides along what stands in the way of direction `u`; `obstacles` from the vessel."""
        if not len(obstacles):
            return u
        away = np.linalg.norm(obstacles, axis=1)
        nearest = obstacles[int(np.argmin(away))] / (away.min() + 1e-9)
        toward = float(u @ nearest)
        if away.min() > radius + 0.02 or toward <= 0:
            return u
        along = u - toward * nearest
        length = float(np.linalg.norm(along))
        return np.asarray(along / length) if length > 0.1 else u
