"""Reactive skills: each looks at the state of the simulator and says the next action.

A skill keeps almost no memory, so its action is a good label in any state: after noise, after a push, after a missed
grasp. An action is (7,): translation (1.0 = 5 cm), rotation vector (1.0 = 0.5 rad), gripper (-1 open, +1 close).
"""

import numpy as np

from fovea.errors import FoveaError
from fovea.sim.expert.grasp import HOME_YAW, Grasp, nearest_down, plan_grasps, turn_between
from fovea.sim.expert.scene import Array, Scene

OPEN, CLOSE = -1.0, 1.0
STEP_LENGTH, STEP_ANGLE = 0.05, 0.5  # what an action of 1.0 asks for
EMPTY_OPENING = 0.004  # fingers closer than this hold nothing


def move(scene: Scene, position: Array, rotation: Array, gripper: float, speed: float = 1.0) -> Array:
    """(7,) proportional action toward a pose, at most `speed` in its largest translation component."""
    delta = (position - scene.position) / STEP_LENGTH
    delta *= min(1.0, speed / max(float(np.abs(delta).max()), 1e-9))
    turn = 0.6 * turn_between(scene.rotation, rotation) / STEP_ANGLE
    return np.concatenate([delta, np.clip(turn, -1, 1), [gripper]])


class Pick:
    """Grasp an object from above; after a miss open, rise and take the next best grasp.

    Args:
        scene: privileged view.
        name: object instance, e.g. "milk_1".

    Raises:
        FoveaError: if no side of the object fits between the fingers.
    """

    HOVER = 0.08  # above the grasp, until the hand stands over it
    TOLERANCE = 0.010  # to begin closing
    KEEP_CLOSING = 0.025  # to go on closing once the fingers move

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene, self.name = scene, name
        self.grasps = plan_grasps(scene, name)
        if not self.grasps:
            raise FoveaError(
                f"expected an object that fits between the fingers, {name} is wider than 7.4 cm on every side"
            )
        self.attempt = 0
        self._reopening, self._closing = False, False

    @property
    def grasp(self) -> Grasp:
        """The grasp being tried."""
        return self.grasps[min(self.attempt, 3, len(self.grasps) - 1)]

    def act(self) -> Array:
        """(7,) next action while the object is not held."""
        scene = self.scene
        target, rotation = self.grasp.position(scene, self.name), self.grasp.rotation(scene, self.name)
        if scene.opening < EMPTY_OPENING and not self._reopening:
            self._reopening = True
            if self._closing:  # a miss of its own, not fingers that a disturbance closed
                self.attempt += 1
                self.grasps = plan_grasps(scene, self.name) or self.grasps
        if self._reopening:
            if scene.opening < 0.07:
                self._closing = False
                up = scene.position + np.array([0, 0, 0.03])
                return move(scene, up, scene.rotation, OPEN)
            self._reopening = False
        error = target - scene.position
        aside = float(np.hypot(error[0], error[1]))
        twist = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
        closing = scene.opening < 0.075
        tolerance = self.KEEP_CLOSING if closing else self.TOLERANCE
        if aside < tolerance and abs(error[2]) < tolerance and (closing or twist < 0.15):
            self._closing = True
            return move(scene, target, rotation, CLOSE, speed=0.3)
        # a funnel: high while far aside or turned, down when over the object
        height = np.clip(6.0 * (aside - 0.007) + 0.6 * max(0.0, twist - 0.1), 0.0, self.HOVER)
        height = max(height, self._safe_height(target) if aside > 0.05 else 0.0)
        waypoint = target + np.array([0, 0, height])
        near = aside < 0.03 and error[2] > -0.05
        return move(scene, waypoint, rotation, OPEN, speed=0.5 if near else 1.0)

    def _safe_height(self, target: Array) -> float:
        """Height above the grasp at which the fingers pass over everything on the way."""
        scene = self.scene
        obstacles = scene.obstacles(self.name)
        if not len(obstacles):
            return 0.0
        start, way = scene.position[:2], target[:2] - scene.position[:2]
        length = float(np.linalg.norm(way)) + 1e-9
        along = np.clip((obstacles[:, :2] - start) @ way / length**2, 0, 1)
        beside = np.linalg.norm(obstacles[:, :2] - start - along[:, None] * way, axis=1)
        on_way = obstacles[beside < 0.07]
        return max(0.0, float(on_way[:, 2].max() + 0.045 - target[2])) if len(on_way) else 0.0


class PlaceIn:
    """Carry a held object over a container and lower it in.

    Args:
        scene: privileged view.
        name: the held object.
        region: site of the container's region, e.g. "basket_1_contain_region".
        container: the container's instance, e.g. "basket_1".
    """

    RIM_GAP = 0.05
    # distances from the region's centre between which the object sinks below the rim
    OVER, WITHIN = 0.05, 0.02
    FLOOR_GAP = 0.03
    RELEASE_GAP = 0.035  # above that gap, near enough to let go
    HAND_DEPTH = 0.01  # the grip site this far below the rim: with a flat object the palm would soon meet it

    def __init__(self, scene: Scene, name: str, region: str, container: str) -> None:
        self.scene, self.name, self.region, self.container = scene, name, region, container

    def act(self) -> Array:
        """(7,) next action while the object is held; opens the fingers when it is deep in the container."""
        scene = self.scene
        rotation = nearest_down(scene.rotation, HOME_YAW)  # a turned wrist would meet its limits on the way
        walls = scene.points(self.container)[:, 2]
        bottom, rim = float(scene.points(self.name)[:, 2].min()), float(walls.max())
        aside = self._aside
        distance = float(np.linalg.norm(aside))
        low, high = float(walls.min()) + self.FLOOR_GAP, rim + self.RIM_GAP
        deep = bottom < low + self.RELEASE_GAP or scene.position[2] < rim - self.HAND_DEPTH
        if distance < self.OVER and deep:
            return move(scene, scene.position, rotation, OPEN)
        # a funnel again: no state in which it would wait above the container
        share = np.clip((distance - self.WITHIN) / (self.OVER - self.WITHIN), 0.0, 1.0)
        rise = low + share * (high - low) - bottom
        goal = scene.position + np.array([*aside, rise])
        if distance < self.OVER:
            return move(scene, goal, rotation, CLOSE, speed=0.7)
        # straight up first; sideways as the object comes near the rim's height, sooner while the container is far
        free = np.clip((0.06 + max(0.0, distance - 0.15) - rise) / 0.05, 0.0, 1.0)
        action = move(scene, goal, rotation, CLOSE, speed=0.9)
        action[:2] *= free
        return action

    @property
    def _aside(self) -> Array:
        """(2,) from the object to the middle of the container."""
        return self.scene.site_position(self.region)[:2] - self.scene.object_position(self.name)[:2]

    @property
    def done(self) -> bool:
        """Whether the object's middle is in the container, below its rim."""
        rim = float(self.scene.points(self.container)[:, 2].max())
        low = self.scene.object_position(self.name)[2] < rim
        return bool(low and np.linalg.norm(self._aside) < self.OVER + 0.02)

    def leave(self) -> Array:
        """(7,) open and rise, once the object has been let go."""
        return move(self.scene, self.scene.position + np.array([0, 0, 0.05]), self.scene.rotation, OPEN)


class PickAndPlaceIn:
    """Pick an object and put it into a container, again if it is lost on the way."""

    def __init__(self, scene: Scene, name: str, region: str, container: str) -> None:
        self.scene, self.name = scene, name
        self.pick = Pick(scene, name)
        self.place = PlaceIn(scene, name, region, container)
        self._grip = 0

    @property
    def holding(self) -> bool:
        """Whether the fingers have closed on the object and rest on it."""
        return self._grip >= 3

    def act(self) -> Array:
        """(7,) next action."""
        scene = self.scene
        near = float(np.linalg.norm(scene.object_position(self.name) - scene.position)) < 0.09
        between = near and scene.opening > EMPTY_OPENING and self.holding and scene.opening < 0.077
        self._grip = self._grip + 1 if scene.is_held(self.name) or between else 0
        if self.holding:
            return self.place.act()
        return self.place.leave() if self.place.done else self.pick.act()
