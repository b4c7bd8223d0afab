"""Where a held object may go: the spots of a goal, what holds it up there, and how the hand gets in."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from fovea.sim.expert.grasp import HOME_YAW, hand_clearance, turn_between
from fovea.sim.expert.reach import can_reach
from fovea.sim.expert.scene import Array, Scene

NEAR = 0.35  # obstacles farther than this from the goal do not matter
SILHOUETTE = 80  # points of the object that are compared with obstacles
CHECKED = 40  # placements, best first, of which the first within reach is taken
GRID = np.linspace(-0.7, 0.7, 5)  # spots within a region, in half sizes
GAP, WALLED_GAP = 0.004, 0.02
DOWN = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Placement:
    """One way to put a held object down.

    Attributes:
        spot: (2,) from the middle of the destination.
        rotation: (3, 3) of the hand.
    """

    spot: Array
    rotation: Array


class Destination:
    """The place that a goal such as ("on", "mug_1", "plate_1") names.

    Args:
        scene: privileged view.
        name: object that goes there.
        target: an object or a region.
        share: number of the object among those with the same target, and how many these are.
    """

    def __init__(self, scene: Scene, name: str, target: str, share: tuple[int, int] = (0, 1)) -> None:
        self.scene, self.name, self.target, self._share = scene, name, target, share
        self.region = scene.region(target)
        self.parent = self.region.parent_name if self.region is not None else target
        self.inside = bool(self.region is not None and self.parent and not self._lies_flat())

    @property
    def gap(self) -> float:
        """Height above the support at which the object is let go: more where the hand would meet the walls."""
        return WALLED_GAP if self.inside and self.entry() is DOWN else GAP

    @property
    def middle(self) -> Array:
        """(3,) middle of the region, or origin of the target object."""
        if self.region is None:
            return self.scene.object_position(self.target)
        return self.scene.site_position(self.target)

    @property
    def excess(self) -> float:
        """Metres by which the object, standing inside the region as it stands now, would be too tall for the goal.

        LIBERO asks whether the object's origin lies in the region's box.
        """
        if not self.inside:
            return 0.0
        scene, half = self.scene, self._half_sizes()[2]
        origin = scene.object_position(self.name)[2] - float(scene.points(self.name)[:, 2].min())
        return float(self.support(self.middle[:2]) + origin - self.middle[2] - half)

    def resting_place(self) -> Array:
        """(3,) where the object's origin will be when it is let go in the middle."""
        scene, xy = self.scene, self.middle[:2]
        height = scene.object_position(self.name)[2] - float(scene.points(self.name)[:, 2].min())
        return np.array([*xy, self.support(xy) + self.gap + height])

    def support(self, xy: Array, reach: float = 0.03) -> float:
        """Height of what would hold the object up at a spot."""
        scene = self.scene
        if self.region is not None and not self.parent:
            return scene.table_height()
        points = scene.points(self.parent)
        if self.inside:  # not the roof, nor the walls
            points = points[points[:, 2] < self.middle[2]]
        near = points[np.linalg.norm(points[:, :2] - xy, axis=1) < reach]
        return float(near[:, 2].max()) if len(near) else scene.table_height()

    def choose(self, hand: Array) -> Placement:
        """The best placement for an object that the hand holds at rotation `hand` (3, 3)."""
        scene = self.scene
        held, grip = scene.object_position(self.name), scene.position
        points = scene.points(self.name)
        points = points[:: max(1, len(points) // SILHOUETTE)] - held
        obstacles = scene.obstacles(self.name)
        obstacles = obstacles[np.linalg.norm(obstacles - self.middle, axis=1) < NEAR]
        found: list[tuple[float, Placement, Array]] = []
        entry = self.entry()
        for spot in self.spots():
            xy = self.middle[:2] + spot
            support = self.support(xy)
            tall = obstacles[obstacles[:, 2] > support + 0.012]
            if entry is DOWN:  # nothing may be above the object either
                tall[:, 2] = np.minimum(tall[:, 2], support + self.gap + np.ptp(points[:, 2]))
            tree = KDTree(tall) if len(tall) else None
            for angle in self._angles(hand):
                rotation = Rotation.from_euler("z", angle).as_matrix() @ hand
                change = rotation @ scene.rotation.T
                shape = points @ change.T
                origin = np.array([*xy, support + self.gap - shape[:, 2].min()])
                position = origin - change @ (held - grip)
                room = hand_clearance(position, rotation, obstacles, scene.opening / 2 + 0.01)
                free = float(tree.query(shape + origin)[0].min()) if tree is not None else 1.0
                home = abs(
                    (np.arctan2(rotation[1, 0], rotation[0, 0]) - HOME_YAW + np.pi) % (2 * np.pi) - np.pi
                )
                cost = (
                    0.1 * float(np.linalg.norm(turn_between(scene.rotation, rotation)))
                    + 0.3 * max(0.0, home - 1.7)
                    + 6 * scene.stretch(position)
                    + 0.5 * _contortion(rotation)
                    + 2.0 * float(np.linalg.norm(spot))
                    + 20 * max(0.0, 0.015 - room)
                    + 30 * max(0.0, 0.012 - free)
                )
                found.append((cost, Placement(spot, rotation), position))
        found.sort(key=lambda entry: entry[0])
        reachable = (p for _, p, at in found[:CHECKED] if can_reach(scene, at, p.rotation))
        return next(reachable, found[0][1])

    def _lies_flat(self) -> bool:
        """Whether the region is a surface rather than a room."""
        assert self.region is not None
        return min(float(s) for s in self.region.size) < 0.01

    def spots(self) -> list[Array]:
        """(2,) places within the region to try, from its middle."""
        if self.region is None:
            return [np.zeros(2)]
        half = self._half_sizes()[:2]
        number, count = self._share
        spots = [np.array([x, y]) * half for x in GRID for y in GRID]
        if count == 1:
            return spots
        long = int(np.argmax(half))
        side = -1.0 if number % 2 == 0 else 1.0
        return [spot for spot in spots if spot[long] * side > 0.3 * half[long]]

    def _half_sizes(self) -> Array:
        """(3,) half the extent of the region along the axes of the world."""
        assert self.region is not None
        matrix = np.array(self.scene.data.site(self.target).xmat).reshape(3, 3)
        return np.asarray(np.abs(matrix @ np.asarray(self.region.size, np.float64)))

    @staticmethod
    def _angles(hand: Array) -> list[float]:
        """Turns of the hand about the vertical to try: some, and those that bring its fingers parallel to the axes."""
        own = np.arctan2(hand[1, 0], hand[0, 0])
        square = [k * np.pi / 2 - own for k in range(-2, 4)]
        turns = list(np.linspace(-np.pi / 2, np.pi / 2, 7)) + square
        return [float(turn) for turn in turns if abs(turn) <= np.pi / 2 + 0.01]

    def entry(self) -> Array:
        """(3,) direction in which an object gets in: down, or sideways where there is a roof at present."""
        if not self.inside:
            return DOWN
        points, middle = self.scene.points(self.parent), self.middle
        over = np.linalg.norm(points[:, :2] - middle[:2], axis=1) < 0.02
        if not np.any(over & (points[:, 2] > middle[2] + 0.03)):
            return DOWN
        level = points[np.abs(points[:, 2] - middle[2]) < 0.05][:, :2] - middle[:2]

        def blocked(side: Array) -> int:
            ahead, across = level @ side, np.abs(level @ np.array([-side[1], side[0]]))
            return int(((ahead > 0.02) & (across < 0.03)).sum())

        sides = [np.array([np.cos(a), np.sin(a)]) for a in (0, np.pi / 2, np.pi, -np.pi / 2)]
        return np.array([*-min(sides, key=blocked), 0.0])


def _contortion(rotation: Array) -> float:
    """How far a hand (3, 3) that leans sideways is from the way in which the wrist can lean: 0 to 1.

    The arm stands behind the table, and its wrist's joints end soon when the fingers point left or right with the
    hand's back turned. The angles at the end may be fine, but the way there leads into a limit.
    """
    lean = float(np.linalg.norm(rotation[:2, 2]))
    if lean < 0.1:
        return 0.0
    x, pointing = rotation[:2, 0], rotation[:2, 2] / lean
    return float(max(0.0, -x @ np.array([pointing[1], -pointing[0]])) * abs(pointing[1]))
