"""From a BDDL goal to a short plan of skills."""

from typing import Any, Protocol

import numpy as np

from fovea.errors import FoveaError
from fovea.sim.expert.scene import Array, Scene
from fovea.sim.expert.skills import PickAndPlaceIn


class UnsupportedGoal(FoveaError):
    """The goal needs a skill that does not exist yet."""


class Skill(Protocol):
    """Something that says the next action for the present state."""

    name: str

    @property
    def holding(self) -> bool:
        """Whether the skill's object is in the fingers."""
        ...

    def act(self) -> Array:
        """(7,) next action."""
        ...


def _plan(scene: Scene) -> list[Skill]:
    plan: list[Skill] = []
    for predicate, *arguments in scene.goal:
        region = arguments[-1]
        site = scene.sim_env.object_sites_dict.get(region)
        if predicate == "in" and site is not None and "basket" in site.parent_name:
            plan.append(PickAndPlaceIn(scene, arguments[0], region, site.parent_name))
        else:
            raise UnsupportedGoal(
                f"expected a goal that the scripted skills can reach (put an object into a basket), got "
                f"({predicate} {' '.join(arguments)}); choose libero_object or bring demonstrations of your own"
            )
    return plan


class Expert:
    """A scripted policy with privileged poses.

    Args:
        env: a `LiberoEnv` that has just been reset.

    Raises:
        UnsupportedGoal: if the task's goal needs a skill that does not exist.
    """

    def __init__(self, env: Any) -> None:
        self.scene = Scene(env)
        self._plan = _plan(self.scene)

    @property
    def holding(self) -> bool:
        """Whether the object of the present skill is in the fingers."""
        return self._plan[0].holding

    @property
    def distance(self) -> float:
        """From the grip site to the object of the present skill, metres."""
        return float(np.linalg.norm(self.scene.object_position(self._plan[0].name) - self.scene.position))

    def act(self) -> Array:
        """(7,) clean action for the present state, each entry in [-1, 1]."""
        return np.clip(self._plan[0].act(), -1.0, 1.0)
