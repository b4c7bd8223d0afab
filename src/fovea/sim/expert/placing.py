"""Carrying a held object to a destination and letting go of it there."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from fovea.sim.expert.destination import DOWN, Destination, Placement
from fovea.sim.expert.grasp import Grasp, turn_between
from fovea.sim.expert.motion import CLOSE, EMPTY_OPENING, OPEN, UP, Carrier, highest_on_way, move, split
from fovea.sim.expert.picking import Pick
from fovea.sim.expert.rims import plan_any, plan_handle_grasps
from fovea.sim.expert.scene import Array, Scene


class Place:
    """Carry a held object over its destination, lower it and open the fingers.

    The offset from the gripper to the object is read at every step, so an object that slipped still ends up right.
    """

    OVER, WITHIN = 0.05, 0.012  # distances from the spot between which the object sinks
    RELEASE = 0.018  # from the spot, near enough to let go
    DROP = 0.03  # above the support, low enough to let go of what touches the goal already
    HOVER = 0.03  # above what stands at the destination
    OUTSIDE = 0.22  # before a place with a roof

    def __init__(self, scene: Scene, predicate: Sequence[str], destination: Destination) -> None:
        self.scene, self.predicate, self.destination = scene, predicate, destination
        self.name = destination.name
        self._releasing = False
        self._placement: Placement | None = None
        self._entry, self._gap = DOWN, 0.0

    def begin(self, hand: Array) -> None:
        """Choose the spot for an object that was just grasped with the hand at rotation `hand`."""
        self._placement = self.destination.choose(hand)
        self._entry, self._gap = self.destination.entry(), self.destination.gap
        self._releasing = False

    def act(self) -> Array:
        """(7,) next action while the object is held."""
        scene, goal, placement = self.scene, self.destination, self._placement
        assert placement is not None
        held = scene.object_position(self.name)
        change = placement.rotation @ scene.rotation.T
        shape = (scene.points(self.name) - held) @ change.T
        lowest = float(shape[:, 2].min())
        xy = goal.middle[:2] + placement.spot
        support = goal.support(xy)
        origin = np.array([*xy, support + self._gap - lowest])
        target = origin - change @ (held - scene.position)
        error = target - scene.position
        ahead, aside = split(error, self._entry)
        twist = float(np.linalg.norm(turn_between(scene.rotation, placement.rotation)))
        gap = float(scene.points(self.name)[:, 2].min()) - support
        low = gap < self._gap + 0.006 or (gap < self.DROP and scene.rests(self.name))
        there = aside < self.RELEASE and ahead < 0.02 and twist < 0.25 and low
        self._releasing |= there or (gap < self.DROP + 0.015 * goal.inside and scene.holds(self.predicate))
        if self._releasing:
            return move(scene, scene.position, placement.rotation, OPEN)
        share = np.clip((aside - self.WITHIN) / (self.OVER - self.WITHIN), 0.0, 1.0)
        share = max(share, np.clip((twist - 0.2) / 0.3, 0.0, 1.0))
        if self._entry is not DOWN:
            back = -self._entry * share * self.OUTSIDE + (0.012 * UP if ahead > 0.02 else 0.0)
            return move(scene, target + back, placement.rotation, CLOSE, speed=0.7)
        return self._lower(target, origin, shape, share, aside, placement.rotation)

    def _lower(
        self, target: Array, origin: Array, shape: Array, share: float, aside: float, rotation: Array
    ) -> Array:
        scene = self.scene
        obstacles = scene.obstacles(self.name)
        radius = float(np.linalg.norm(shape[:, :2], axis=1).max())
        around = highest_on_way(obstacles, origin, origin, radius)
        floor = origin[2] + float(shape[:, 2].min())
        rise = share * (max(0.0, around - floor) + self.HOVER)
        if aside < self.OVER:
            return move(scene, target + rise * UP, rotation, CLOSE, speed=0.7)
        held = scene.object_position(self.name)
        points = scene.points(self.name)
        lowest = float(points[:, 2].min())
        roof = obstacles[obstacles[:, 2] > points[:, 2].max()]
        roof = roof[np.linalg.norm(roof[:, :2] - held[:2], axis=1) < radius + 0.005]
        if len(roof):  # out from under it first
            out = held[:2] - roof[:, :2].mean(0)
            away = np.array([*out, 0.0]) / (float(np.linalg.norm(out)) + 1e-9)
            lift = 0.03 if scene.rests(self.name) else 0.0
            return move(scene, scene.position + 0.04 * away + lift * UP, scene.rotation, CLOSE)
        on_way = highest_on_way(obstacles, held, origin, radius + 0.015)
        rise = max(rise, on_way + self.HOVER - floor)
        goal = target + rise * UP
        missing = goal[2] - scene.position[2]
        # straight up first; sideways as the object comes near the height at which it passes everything
        clear = lowest > highest_on_way(obstacles, held, held, radius + 0.03) + 0.01
        free = 1.0 if clear and aside > 0.15 else float(np.clip((0.06 - missing) / 0.05, 0.0, 1.0))
        action = move(scene, goal, rotation, CLOSE, speed=0.9)
        action[:2] *= free
        return action


class PickAndPlace(Carrier):
    """Pick an object and bring it to where the goal wants it, again if it is lost on the way.

    Args:
        scene: privileged view.
        predicate: ("on" or "in", object, target).
        share: see `Destination`.
    """

    AWAY = 0.06  # from the object, far enough to turn to something else

    def __init__(self, scene: Scene, predicate: Sequence[str], share: tuple[int, int] = (0, 1)) -> None:
        self.scene, self.predicate, self.name = scene, predicate, predicate[1]
        self.destination = Destination(scene, self.name, predicate[2], share)
        self.place = Place(scene, predicate, self.destination)
        self._pick: Pick | None = None
        self._grip, self._leaving, self._placing = 0, 0, False

    @property
    def finished(self) -> bool:
        """Whether the object is where it should be and the hand is off it."""
        return not self.holding and self._leaving == 0 and self.scene.holds(self.predicate)

    def act(self) -> Array:
        """(7,) next action."""
        scene = self.scene
        if self._pick is None:
            self._pick = self._new_pick()
        self._grip = self._grip + 1 if self._in_fingers() else 0
        if self.holding:
            if not self._placing:
                self.place.begin(self._upright_hand(self._pick.grasp))
                self._placing = True
            action = self.place.act()
            if action[6] < 0:
                self._leaving = 25
            return action
        if self._placing:
            self._placing, self._pick = False, self._new_pick(self._pick.grasps)
        if self._leaving:
            gap = np.linalg.norm(scene.points(self.name) - scene.position, axis=1).min()
            self._leaving = 0 if gap > self.AWAY else self._leaving - 1
            return move(scene, scene.position - 0.05 * scene.rotation[:, 2], scene.rotation, OPEN)
        if self._pick.idle and self._pose_changed():
            self._pick = self._new_pick(self._pick.grasps)
        return self._pick.act()

    def _upright_hand(self, grasp: Grasp) -> Array:
        """(3, 3) the hand's rotation in this grasp once the object stands upright."""
        hand = grasp.rotation(self.scene, self.name)
        if grasp.frame is None:
            return hand
        up = self.scene.object_rotation(self.name)[:, 2]
        axis = np.cross(up, UP)
        angle = np.arccos(np.clip(up @ UP, -1, 1))
        level = Rotation.from_rotvec(axis / (np.linalg.norm(axis) + 1e-9) * angle)
        return np.asarray(level.as_matrix() @ hand)

    def _pose_changed(self) -> bool:
        """Whether the object tipped or sank since its grasps were planned."""
        height, up = self.scene.object_position(self.name)[2], self.scene.object_rotation(self.name)[2]
        return bool(abs(height - self._planned[0]) > 0.01 or np.abs(up - self._planned[1]).max() > 0.06)

    def _new_pick(self, earlier: Sequence[Grasp] = ()) -> Pick:
        scene = self.scene
        self._planned = scene.object_position(self.name)[2], scene.object_rotation(self.name)[2]
        if self.destination.entry() is not DOWN:
            return Pick(self.scene, self.name, plan_handle_grasps, earlier)
        planner = partial(plan_any, goal=self.destination.resting_place())
        return Pick(self.scene, self.name, planner, earlier)

    def _in_fingers(self) -> bool:
        scene = self.scene
        if scene.is_held(self.name):
            return True
        assert self._pick is not None
        off = self._pick.grasp.position(scene, self.name) - scene.position
        between = EMPTY_OPENING < scene.opening < 0.077 and float(np.linalg.norm(off)) < 0.04
        return self.holding and between
