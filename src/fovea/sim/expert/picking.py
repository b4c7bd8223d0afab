"""Grasping: over the object, down, close, and again after a miss."""

from collections.abc import Callable, Sequence

import numpy as np

from fovea.errors import FoveaError
from fovea.sim.expert.grasp import Grasp, plan_grasps, turn_between
from fovea.sim.expert.motion import CLOSE, EMPTY_OPENING, OPEN, UP, highest_on_way, move, split
from fovea.sim.expert.scene import Array, Scene


class NoGrasp(FoveaError):
    """An object lies so, or is so wide, that the fingers cannot take it."""


class Pick:
    """Grasp an object; after a miss open, rise and take the next best grasp.

    Args:
        scene: privileged view.
        name: object instance, e.g. "milk_1".
        planner: grasps of an object, best first.
        earlier: grasps to fall back on, for an object that has since fallen over.

    Raises:
        NoGrasp: if the planner finds none.
    """

    HOVER = 0.08  # before the grasp, until the hand stands over it
    TOLERANCE = 0.010  # to begin closing
    KEEP_CLOSING = 0.025  # to go on closing once the fingers move
    PATIENCE = 30  # steps that the fingers may close without a hold

    def __init__(
        self,
        scene: Scene,
        name: str,
        planner: Callable[[Scene, str], list[Grasp]] = plan_grasps,
        earlier: Sequence[Grasp] = (),
    ) -> None:
        self.scene, self.name, self._planner = scene, name, planner
        self.grasps = planner(scene, name) or list(earlier)
        if not self.grasps:
            raise NoGrasp(
                f"expected an object that fits between the fingers, {name} is wider than 7.4 cm on every side"
            )
        self.attempt = 0
        self._closing, self._waiting, self._reopening = 0, 0, False
        self._before, self._still = scene.position, 0

    @property
    def idle(self) -> bool:
        """Whether the fingers are not about to close, so that another plan would do no harm."""
        return self._closing == 0

    @property
    def grasp(self) -> Grasp:
        """The grasp being tried."""
        return self.grasps[min(self.attempt, 3, len(self.grasps) - 1)]

    def act(self) -> Array:
        """(7,) next action while the object is not held."""
        scene = self.scene
        target, rotation = self.grasp.position(scene, self.name), self.grasp.rotation(scene, self.name)
        if (scene.opening < EMPTY_OPENING or self._closing > self.PATIENCE) and not self._reopening:
            self._reopening = True
            if self._closing:  # a miss of its own, not fingers that a disturbance closed
                self.attempt += 1
                self.grasps = self._planner(scene, self.name) or self.grasps
        if self._reopening:
            if scene.opening < 0.07:
                self._closing = 0
                up = scene.position + np.array([0, 0, 0.03])
                return move(scene, up, scene.rotation, OPEN)
            self._reopening = False
        self._still = self._still + 1 if np.linalg.norm(scene.position - self._before) < 0.0015 else 0
        self._before = scene.position
        if self._still > self.PATIENCE and not self._closing:  # something is in the way
            self.attempt, self._still = self.attempt + 1, 0
            self.grasps = self._planner(scene, self.name) or self.grasps
            target, rotation = self.grasp.position(scene, self.name), self.grasp.rotation(scene, self.name)
        approach = rotation[:, 2]
        error = target - scene.position
        ahead, aside = split(error, approach)
        twist = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
        closing = scene.opening < 0.075
        # where the arm is folded or stretched it comes to rest a little beside the grasp
        self._waiting = self._waiting + 1 if aside < 0.02 and abs(ahead) < 0.03 else 0
        slack = 0.008 if self._waiting > self.PATIENCE / 2 else 0.0
        tolerance = self.KEEP_CLOSING if closing else self.TOLERANCE + slack
        if aside < tolerance and abs(ahead) < tolerance and (closing or twist < 0.15):
            self._closing += 1
            return move(scene, target, rotation, CLOSE, speed=0.3)
        # a funnel: far back while far aside or turned, forward when in line with the grasp
        back = np.clip(6.0 * (aside - 0.007 - slack) + 0.6 * max(0.0, twist - 0.1), 0.0, self.HOVER)
        waypoint = target - back * approach
        if aside > 0.05:
            top = highest_on_way(scene.obstacles(self.name), scene.position, target, 0.07)
            waypoint = waypoint + max(0.0, top + 0.045 - waypoint[2]) * UP
        near = aside < 0.03 and ahead < 0.05
        return move(scene, waypoint, rotation, OPEN, speed=0.5 if near else 1.0)
