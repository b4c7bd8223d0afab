"""Drawers, doors and knobs: pull, push shut, turn."""

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from fovea.sim.expert.grasp import HAND_CORNERS, hand_clearance, leaning, nearest_down, turn_between
from fovea.sim.expert.motion import CLOSE, EMPTY_OPENING, OPEN, UP, highest_on_way, move, split
from fovea.sim.expert.scene import Array, Scene

SLIDE = 2  # mujoco's mjJNT_SLIDE
TILTS = (0.3, 0.45, 0.6, 0.75, 0.9)  # of the hand before a drawer, from the horizontal
PATIENCE = 20  # steps that the fingers may close without a hold
NARROW_YAWS = np.linspace(0, np.pi, 24, endpoint=False)


def facing(current: Array, outward: Array, tilt: float) -> Array:
    """(3, 3) hand that points against `outward` and `tilt` downward, fingers one over the other; the nearer turn."""
    u = np.array([outward[0], outward[1], 0.0]) / np.hypot(outward[0], outward[1])
    z = -np.cos(tilt) * u - np.sin(tilt) * UP
    x = -np.sin(tilt) * u + np.cos(tilt) * UP
    candidates = [np.stack([side, np.cross(z, side), z], 1) for side in (x, -x)]
    return min(candidates, key=lambda r: float(np.linalg.norm(turn_between(current, r))))


def best_tilt(scene: Scene, position: Array, outward: Array) -> float:
    """The tilt that keeps the hand clear of the table and of the drawers above and below."""
    obstacles, table = scene.obstacles(), scene.table_height()

    def cost(tilt: float) -> float:
        rotation = facing(scene.rotation, outward, tilt)
        lowest = min(float((position + rotation @ corner)[2]) for corner in HAND_CORNERS) - table
        room = hand_clearance(position, rotation, obstacles)
        return 20 * max(0.0, 0.012 - room) + 20 * max(0.0, 0.015 - lowest) + 0.1 * abs(tilt - 0.6)

    return min(TILTS, key=cost)


class Articulated:
    """What the skills of drawers, doors and knobs share.

    Args:
        scene: privileged view.
        predicate: such as ("open", "wooden_cabinet_1_top_region").
    """

    AWAY = 0.07  # from the part, far enough to turn to something else

    def __init__(self, scene: Scene, predicate: tuple[str, ...]) -> None:
        self.scene, self.predicate = scene, predicate
        self.joint = scene.joint_of(predicate[1])
        self.body = int(scene.model.jnt_bodyid[self.joint])
        region = scene.region(predicate[1])
        self.fixture: str = region.parent_name if region is not None else predicate[1]
        self._engaged, self._leaving = False, 0

    @property
    def holding(self) -> bool:
        """Whether the part is in the fingers."""
        return self.scene.fingers_touch(self.body)

    @property
    def distance(self) -> float:
        """From the grip site to the part, metres."""
        return float(np.linalg.norm(self.scene.body_points(self.body) - self.scene.position, axis=1).min())

    @property
    def finished(self) -> bool:
        """Whether the goal holds and the hand is off the part."""
        return not self._engaged and self.scene.holds(self.predicate)

    def _articulation(self) -> dict[str, Any]:
        properties: dict[str, Any] = self.scene.sim_env.get_object(self.fixture).object_properties
        return properties["articulation"]

    def _leave(self, gripper: float = OPEN) -> Array:
        """(7,) back along the fingers, then up."""
        scene = self.scene
        self._leaving = 0 if self.distance > self.AWAY else self._leaving - 1
        self._engaged = self._leaving > 0
        back = scene.position - 0.05 * scene.rotation[:, 2] + 0.01 * UP
        if gripper == OPEN and scene.opening < 0.05:
            back = scene.position
        return move(scene, back, scene.rotation, gripper)

    def _over(self, waypoint: Array, target: Array) -> Array:
        """A waypoint raised so that the hand passes over everything on the way to it."""
        scene = self.scene
        if np.linalg.norm(target[:2] - scene.position[:2]) < 0.16:
            return waypoint
        top = highest_on_way(scene.obstacles(self.fixture), scene.position, waypoint, 0.08)
        return waypoint + max(0.0, top + 0.045 - waypoint[2]) * UP


class OpenDrawer(Articulated):
    """Grasp a drawer's handle and pull."""

    MARGIN = 0.012  # beyond what counts as open
    PULL = 0.035
    SHIFTS = (0.0, 0.004, -0.004, 0.008)  # of the grasp toward the cabinet, one for each attempt

    def __init__(self, scene: Scene, predicate: tuple[str, ...]) -> None:
        super().__init__(scene, predicate)
        self._attempt, self._closing, self._reopening = 0, 0, False
        self.tilt = best_tilt(scene, self.handle, self.outward)

    @property
    def outward(self) -> Array:
        """(3,) direction in which the drawer opens."""
        ranges = self._articulation()
        sign = np.sign(np.mean(ranges["default_open_ranges"]) - np.mean(ranges["default_close_ranges"]))
        return np.asarray(sign * self.scene.joint_axis(self.joint))

    @property
    def handle(self) -> Array:
        """(3,) middle of the bar that sticks out farthest."""
        points = self.scene.body_points(self.body)
        out = points @ self.outward
        return np.asarray(points[out > out.max() - 0.012].mean(0))

    @property
    def _wide_open(self) -> bool:
        ranges = self._articulation()["default_open_ranges"]
        nearest = min(ranges, key=abs)
        return abs(self.scene.joint_position(self.joint)) > abs(nearest) + self.MARGIN

    def act(self) -> Array:
        """(7,) next action."""
        scene, outward = self.scene, self.outward
        if self._wide_open:
            self._leaving = self._leaving or 25
        if self._leaving:
            return self._leave()
        rotation = facing(scene.rotation, outward, self.tilt)
        approach = rotation[:, 2]
        target = self.handle - (0.004 + self.SHIFTS[self._attempt % 4]) * outward
        ahead, aside = split(target - scene.position, approach)
        if self.holding and scene.opening > EMPTY_OPENING:
            self._closing, self._engaged = 0, True
            sideways = (target - scene.position) - ((target - scene.position) @ outward) * outward
            return move(scene, scene.position + self.PULL * outward + 0.3 * sideways, rotation, CLOSE)
        stuck = self._closing > PATIENCE
        if (scene.opening < EMPTY_OPENING or stuck) and not self._reopening:
            self._reopening = True
            self._attempt += self._closing > 0
        if self._reopening:
            if scene.opening < 0.07:
                self._closing = 0
                return move(scene, scene.position - 0.03 * approach, rotation, OPEN)
            self._reopening = False
        twist = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
        closing = self._closing > 0
        tolerance = 0.025 if closing else 0.009
        if aside < tolerance and abs(ahead) < tolerance and (closing or twist < 0.15):
            self._closing += 1
            return move(scene, target, rotation, CLOSE, speed=0.3)
        self._closing = 0
        back = float(np.clip(5.0 * (aside - 0.008) + 0.3 * max(0.0, twist - 0.1), 0.0, 0.10))
        waypoint = self._over(target - back * approach, target)
        near = aside < 0.03 and ahead < 0.05
        return move(scene, waypoint, rotation, OPEN, speed=0.5 if near else 1.0)


class Shut(Articulated):
    """Push a drawer or a door shut with closed fingers."""

    DEPTH = 0.018  # half the thickness of the fingers, and their tips beyond the grip site
    LEAN = 0.8  # of the hand toward a drawer, so that it stays clear of the handles above

    def act(self) -> Array:
        """(7,) next action."""
        scene = self.scene
        if scene.holds(self.predicate):
            self._leaving = self._leaving or 12
        if self._leaving:
            return self._leave(CLOSE)
        contact, push, rotation = self._drawer() if self._slides else self._door()
        error = contact - scene.position
        ahead, aside = split(error, push)
        twist = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
        if aside < 0.03 and twist < 0.4 and ahead < 0.06:
            self._engaged = True
            sideways = error - ahead * push
            step = max(0.035, ahead + 0.02)
            return move(scene, scene.position + step * push + 0.7 * sideways, rotation, CLOSE, speed=0.8)
        # behind the part, at a distance, from above where something is in the way
        start = contact - 0.045 * push
        ahead = float((start - scene.position) @ push)
        far = float(np.linalg.norm((start - scene.position)[:2]))
        lift = 0.0 if far < 0.03 else float(np.clip(2.0 * (far - 0.02), 0.0, 0.12))
        if ahead < -0.03 or far > 0.16:  # on the wrong side of it, or far off
            lift = max(lift, self._top() + 0.05 - start[2])
        goal = start + lift * UP
        action = move(scene, goal, rotation, CLOSE)
        if ahead < -0.03 and scene.position[2] < goal[2] - 0.05:
            action[:2] = 0.0
        return action

    @property
    def _slides(self) -> bool:
        return int(self.scene.model.jnt_type[self.joint]) == SLIDE

    def _top(self) -> float:
        return float(self.scene.body_points(self.body)[:, 2].max())

    def _closing_sign(self) -> float:
        ranges = self._articulation()
        return float(
            np.sign(np.mean(ranges["default_close_ranges"]) - np.mean(ranges["default_open_ranges"]))
        )

    def _drawer(self) -> tuple[Array, Array, Array]:
        """Where the grip site pushes, in which direction, and how the hand stands."""
        push = self._closing_sign() * self.scene.joint_axis(self.joint)
        points = self.scene.body_points(self.body)
        out = points @ -push
        front = points[out > out.max() - 0.012].mean(0)
        rotation = leaning(self.scene.rotation, float(np.arctan2(push[1], push[0])) - np.pi / 2, self.LEAN)
        return front - self.DEPTH * push, push, rotation

    def _door(self) -> tuple[Array, Array, Array]:
        """As `_drawer`, near the free edge of a door, from its outer side."""
        scene = self.scene
        anchor, axis = np.array(scene.data.xanchor[self.joint]), scene.joint_axis(self.joint)
        points = scene.body_points(self.body)
        reach = points[:, :2] - anchor[:2]
        far = float(np.linalg.norm(reach, axis=1).max())
        edge = reach[np.linalg.norm(reach, axis=1) > 0.7 * far].mean(0)
        radial = np.array([*(edge / np.linalg.norm(edge)), 0.0])
        push = np.cross(self._closing_sign() * axis, radial)
        across = (points - anchor) @ push
        middle = (points - anchor) @ radial
        outer = float(across[np.abs(middle - 0.75 * far) < 0.02].min())
        contact = anchor + 0.75 * far * radial + (outer - 0.014) * push
        contact[2] = self._top() - 0.03
        yaw = float(np.arctan2(radial[1], radial[0]))
        return contact, push, nearest_down(scene.rotation, yaw)


class TurnKnob(Articulated):
    """Grasp a knob from above and turn it."""

    MARGIN = 0.12  # radians beyond what counts as turned
    TURN = 0.4  # asked for at each step

    def act(self) -> Array:
        """(7,) next action."""
        scene = self.scene
        ranges = self._articulation()["default_turnon_ranges"]
        if scene.joint_position(self.joint) > min(ranges) + self.MARGIN:
            self._leaving = self._leaving or 20
        if self._leaving:
            return self._leave()
        points = scene.body_points(self.body)
        lever = points[points[:, 2] > points[:, 2].max() - 0.012]
        middle = (lever[:, :2].max(0) + lever[:, :2].min(0)) / 2
        flat = lever[:, :2] - middle
        yaw = min(NARROW_YAWS, key=lambda a: float(np.ptp(flat @ np.array([np.cos(a), np.sin(a)]))))
        target = np.array([*middle, points[:, 2].max() - 0.012])
        rotation = nearest_down(scene.rotation, float(yaw))
        if self.holding:
            self._engaged = True
            turn = Rotation.from_rotvec(self.TURN * scene.joint_axis(self.joint)).as_matrix()
            return move(scene, target, turn @ scene.rotation, CLOSE)
        ahead, aside = split(target - scene.position, -UP)
        twist = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
        closing = scene.opening < 0.075
        tolerance = 0.02 if closing else 0.010
        if aside < tolerance and abs(ahead) < tolerance and (closing or twist < 0.15):
            gripper = OPEN if scene.opening < EMPTY_OPENING else CLOSE
            return move(scene, target, rotation, gripper, speed=0.3)
        back = float(np.clip(6.0 * (aside - 0.007) + 0.6 * max(0.0, twist - 0.1), 0.0, 0.08))
        waypoint = self._over(target + back * UP, target)
        return move(scene, waypoint, rotation, OPEN, speed=0.5 if aside < 0.03 and ahead < 0.05 else 1.0)
