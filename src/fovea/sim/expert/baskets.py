"""Into a basket: reactive picking and placing for containers that are open and wide."""

import numpy as np

from fovea.sim.expert.grasp import HOME_YAW, nearest_down
from fovea.sim.expert.motion import CLOSE, EMPTY_OPENING, OPEN, Carrier, move
from fovea.sim.expert.picking import Pick
from fovea.sim.expert.scene import Array, Scene


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


class PickAndPlaceIn(Carrier):
    """Pick an object and put it into a container, again if it is lost on the way."""

    def __init__(self, scene: Scene, name: str, region: str, container: str) -> None:
        self.scene, self.name = scene, name
        self.pick = Pick(scene, name)
        self.place = PlaceIn(scene, name, region, container)
        self._grip, self._left = 0, False

    @property
    def finished(self) -> bool:
        """Whether the object is in the container and the hand is above it."""
        scene = self.scene
        if self.holding or not scene.holds(("in", self.name, self.place.region)):
            self._left = False
        elif scene.position[2] > scene.points(self.place.container)[:, 2].max() + 0.02:
            self._left = True
        return self._left

    def act(self) -> Array:
        """(7,) next action."""
        scene = self.scene
        near = float(np.linalg.norm(scene.object_position(self.name) - scene.position)) < 0.09
        between = near and scene.opening > EMPTY_OPENING and self.holding and scene.opening < 0.077
        self._grip = self._grip + 1 if scene.is_held(self.name) or between else 0
        if self.holding:
            return self.place.act()
        return self.place.leave() if self.place.done else self.pick.act()
