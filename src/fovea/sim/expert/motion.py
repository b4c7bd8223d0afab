"""How skills move: proportional actions, and heights that pass over what stands in the way.

An action is (7,): translation (1.0 = 5 cm), rotation vector (1.0 = 0.5 rad), gripper (-1 open, +1 close).
"""

import numpy as np

from fovea.sim.expert.grasp import turn_between
from fovea.sim.expert.scene import Array, Scene

OPEN, CLOSE = -1.0, 1.0
STEP_LENGTH, STEP_ANGLE = 0.05, 0.5  # what an action of 1.0 asks for
EMPTY_OPENING = 0.004  # fingers closer than this hold nothing
UP = np.array([0.0, 0.0, 1.0])


def move(scene: Scene, position: Array, rotation: Array, gripper: float, speed: float = 1.0) -> Array:
    """(7,) proportional action toward a pose, at most `speed` in its largest translation component."""
    delta = (position - scene.position) / STEP_LENGTH
    delta *= min(1.0, speed / max(float(np.abs(delta).max()), 1e-9))
    turn = 0.6 * turn_between(scene.rotation, rotation) / STEP_ANGLE
    return np.concatenate([delta, np.clip(turn, -1, 1), [gripper]])


def highest_on_way(obstacles: Array, start: Array, end: Array, width: float) -> float:
    """Height of the highest point within `width` of the straight way between two points; -inf if there is none.

    Args:
        obstacles: (n, 3).
        start, end: (2,) or (3,), of which the height is ignored.
    """
    if not len(obstacles):
        return -np.inf
    start, way = start[:2], end[:2] - start[:2]
    length = float(np.linalg.norm(way)) + 1e-9
    along = np.clip((obstacles[:, :2] - start) @ way / length**2, 0, 1)
    beside = np.linalg.norm(obstacles[:, :2] - start - along[:, None] * way, axis=1)
    on_way = obstacles[beside < width]
    return float(on_way[:, 2].max()) if len(on_way) else -np.inf


def split(error: Array, axis: Array) -> tuple[float, float]:
    """Signed part of an error along a unit axis, and the size of the rest."""
    along = float(error @ axis)
    return along, float(np.linalg.norm(error - along * axis))


class Carrier:
    """A skill that takes an object somewhere: whether it has it, and how far away it is.

    A subclass counts in `_grip` the steps for which the object has been between the fingers.
    """

    scene: Scene
    name: str
    _grip: int

    @property
    def holding(self) -> bool:
        """Whether the fingers have closed on the object and rest on it."""
        return self._grip >= 3

    @property
    def distance(self) -> float:
        """From the grip site to the object, metres."""
        return float(np.linalg.norm(self.scene.object_position(self.name) - self.scene.position))
