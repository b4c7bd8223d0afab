"""Where to put the fingers: parallel-jaw grasps from above, in the frame of the object.

Shape letters: n points.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from fovea.sim.expert.scene import Array, Scene

FINGER_LENGTH = 0.012  # fingertips reach this far below the grip site
MAX_WIDTH = 0.074  # widest object that is grasped; the fingers open to 0.08
HAND_HEIGHT = 0.035  # the hand's body starts this far above the grip site
HAND_CORNERS = [np.array([x, y, z]) for x in (0.1, -0.1) for y in (0.04, -0.04) for z in (-0.04, -0.15)]
HOME_YAW = np.pi / 2  # of the closing axis when the arm is at rest
YAWS = np.linspace(-np.pi / 2, np.pi / 2, 24, endpoint=False)


@dataclass(frozen=True)
class Grasp:
    """A grasp that follows its object: position and yaw relative to the object's body.

    Attributes:
        offset: (3,) from the object's origin to the grip site, in a frame turned with the object's yaw.
        yaw: of the closing axis, relative to the object's yaw.
        axis: the axis of the object's body whose heading is its yaw.
        width: of the object along the closing axis.
        clearance: from the open fingers to the nearest other object.
        lean: angle by which the hand leans out of the vertical, about the closing axis: its fingers then point
            down and to the left of that axis' heading `yaw` (negative: to the right).
        frame: (3, 3) rotation of the hand relative to the object's body, for an object that stands askew; `offset` is
            then in the body's own frame too, and yaw, axis and lean do not count.
    """

    offset: Array
    yaw: float
    axis: int
    width: float
    clearance: float
    lean: float = 0.0
    frame: Array | None = None

    def position(self, scene: Scene, name: str) -> Array:
        """(3,) grip-site position in the world."""
        if self.frame is not None:
            return scene.object_position(name) + scene.object_rotation(name) @ self.offset
        turn = Rotation.from_euler("z", heading(scene.object_rotation(name), self.axis)).as_matrix()
        return scene.object_position(name) + turn @ self.offset

    def rotation(self, scene: Scene, name: str) -> Array:
        """(3, 3) gripper rotation in the world, the nearer of the two symmetric ones."""
        yaw = self.yaw + heading(scene.object_rotation(name), self.axis)
        return (
            nearest_down(scene.rotation, yaw) if self.lean == 0 else leaning(scene.rotation, yaw, self.lean)
        )


def heading(rotation: Array, axis: int) -> float:
    """Yaw of a body about the world's z axis, read from one of its own axes (0, 1 or 2)."""
    return float(np.arctan2(rotation[1, axis], rotation[0, axis]))


def down(yaw: float) -> Array:
    """(3, 3) gripper rotation that points down with the closing axis at `yaw`."""
    x, z = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([0.0, 0.0, -1.0])
    return np.stack([x, np.cross(z, x), z], 1)


def turn_between(current: Array, wanted: Array) -> Array:
    """(3,) rotation vector in the world frame from one rotation to another."""
    return Rotation.from_matrix(wanted @ current.T).as_rotvec()


def nearest_down(current: Array, yaw: float) -> Array:
    """The downward rotation with closing axis `yaw` or `yaw + pi` that needs the smaller turn."""
    candidates = [down(yaw + k * np.pi) for k in (0, 1)]
    return min(candidates, key=lambda r: float(np.linalg.norm(turn_between(current, r))))


def nearer_side(current: Array, wanted: Array) -> Array:
    """A rotation of the hand, or the same with the fingers exchanged: whichever needs the smaller turn."""
    candidates = [wanted, wanted * np.array([-1.0, -1.0, 1.0])]
    return min(candidates, key=lambda r: float(np.linalg.norm(turn_between(current, r))))


def leaning(current: Array, yaw: float, lean: float) -> Array:
    """As `nearest_down`, with fingers that point `lean` to the left of the heading `yaw` instead of straight down."""
    x = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    z = np.array([-np.sin(lean) * x[1], np.sin(lean) * x[0], -np.cos(lean)])
    candidates = [np.stack([side, np.cross(z, side), z], 1) for side in (x, -x)]
    return min(candidates, key=lambda r: float(np.linalg.norm(turn_between(current, r))))


def hand_clearance(position: Array, rotation: Array, obstacles: Array, half_opening: float = 0.04) -> float:
    """Smallest distance from a hand in any pose to obstacles; 0 if one of them is inside it.

    Args:
        position, rotation: (3,) and (3, 3) pose of the grip site.
        obstacles: (n, 3).
    """
    local = (obstacles - position) @ rotation
    local = local[np.linalg.norm(local, axis=1) < 0.4]
    nearest = 1.0
    for centre, half in (
        ((half_opening, 0, -0.015), (0.012, 0.011, 0.027)),
        ((-half_opening, 0, -0.015), (0.012, 0.011, 0.027)),
        ((0, 0, -0.095), (0.105, 0.035, 0.055)),
        ((0, 0, -0.25), (0.055, 0.055, 0.10)),
    ):
        outside = np.maximum(np.abs(local - np.array(centre)) - np.array(half), 0)
        if len(outside):
            nearest = min(nearest, float(np.linalg.norm(outside, axis=1).min()))
    return nearest


def clearance(
    centre: Array, yaw: float, height: float, obstacles: Array, half_opening: float = 0.04
) -> float:
    """Smallest horizontal distance from the open fingers and the hand to other objects (1 m if there are none).

    Args:
        centre: (2,) between the fingers.
        height: of the grip site.
        obstacles: (n, 3).
    """
    u = np.array([np.cos(yaw), np.sin(yaw)])
    v = np.array([-u[1], u[0]])
    nearest = 1.0
    fingers = obstacles[obstacles[:, 2] > height - 0.015][:, :2] - centre
    if len(fingers):
        along = np.maximum(np.abs(np.abs(fingers @ u) - half_opening) - 0.012, 0)
        across = np.maximum(np.abs(fingers @ v) - 0.011, 0)
        nearest = min(nearest, float(np.hypot(along, across).min()))
    hand = obstacles[obstacles[:, 2] > height + HAND_HEIGHT][:, :2] - centre
    if len(hand):
        along, across = np.maximum(np.abs(hand @ u) - 0.10, 0), np.maximum(np.abs(hand @ v) - 0.035, 0)
        nearest = min(nearest, float(np.hypot(along, across).min()))
    return nearest


def plan_grasps(scene: Scene, name: str) -> list[Grasp]:
    """Grasps of an object from above, best first: little turning of the hand, a narrow side, room for the fingers.

    Little turning comes first because demonstrations that turn the hand only where they must are easier to learn.
    """
    points, obstacles = scene.points(name), scene.obstacles(name)
    top, bottom = points[:, 2].max(), points[:, 2].min()
    height = max(min(top - 0.02, bottom + 0.55 * (top - bottom)), top - 0.035, bottom + FINGER_LENGTH + 0.002)
    band = points[np.abs(points[:, 2] - height) < 0.02]
    flat = (band if len(band) >= 6 else points)[:, :2]
    middle = (flat.max(0) + flat.min(0)) / 2
    origin, rotation = scene.object_position(name), scene.object_rotation(name)
    axis = int(np.argmin(np.abs(rotation[2])))
    own_yaw = heading(rotation, axis)
    back = Rotation.from_euler("z", -own_yaw).as_matrix()
    scored = []
    for yaw in YAWS:
        u = np.array([np.cos(yaw), np.sin(yaw)])
        v = np.array([-u[1], u[0]])
        along, across = (flat - middle) @ u, (flat - middle) @ v
        width = float(np.ptp(along))
        if width > MAX_WIDTH:
            continue
        centre = middle + u * (along.max() + along.min()) / 2 + v * (across.max() + across.min()) / 2
        room = clearance(centre, yaw, height, obstacles)
        turn = float(np.linalg.norm(turn_between(scene.rotation, nearest_down(scene.rotation, yaw))))
        cost = 0.5 * turn + 8 * max(0.0, width - 0.05) + 200 * max(0.0, 0.012 - room)
        offset = back @ (np.array([*centre, height]) - origin)
        scored.append((cost, Grasp(offset, float(yaw - own_yaw), axis, width, room)))
    return [grasp for _, grasp in sorted(scored, key=lambda pair: pair[0])]
