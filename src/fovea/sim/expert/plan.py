"""From a BDDL goal to a short plan of skills."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fovea.errors import FoveaError
from fovea.sim.expert.articulated import OpenDrawer, Shut, TurnKnob
from fovea.sim.expert.baskets import PickAndPlaceIn
from fovea.sim.expert.dragging import Drag
from fovea.sim.expert.motion import OPEN, UP, move
from fovea.sim.expert.placing import PickAndPlace
from fovea.sim.expert.scene import Array, Scene

ORDER = {"open": 0, "turnon": 1, "on": 2, "in": 2, "close": 3}
"""What comes first where a goal has several parts."""


class UnsupportedGoal(FoveaError):
    """The goal needs a skill that does not exist yet."""


class Skill(Protocol):
    """Something that brings about one part of the goal and says the next action for the present state."""

    @property
    def holding(self) -> bool:
        """Whether the skill's object is in the fingers."""
        ...

    @property
    def distance(self) -> float:
        """From the grip site to the skill's object, metres."""
        ...

    @property
    def finished(self) -> bool:
        """Whether its part of the goal holds and the hand is free."""
        ...

    def act(self) -> Array:
        """(7,) next action."""
        ...


def plan(scene: Scene) -> list[Skill]:
    """The skills that reach the goal, in order.

    Raises:
        UnsupportedGoal: if a part of the goal needs a skill that does not exist.
    """
    goal = sorted((tuple(part) for part in scene.goal), key=lambda part: ORDER.get(part[0], 9))
    skills: list[Skill] = []
    for part in goal:
        skills += _skills(scene, part, goal)
    return skills


def _skills(scene: Scene, part: tuple[str, ...], goal: Sequence[tuple[str, ...]]) -> list[Skill]:
    predicate, target = part[0], part[-1]
    joint = _joint(scene, target)
    if predicate == "open" and joint == "drawer":
        return [OpenDrawer(scene, part)]
    if predicate == "close" and joint in ("drawer", "door"):
        return [Shut(scene, part)]
    if predicate == "turnon" and joint == "door":
        return [TurnKnob(scene, part)]
    if predicate in ("on", "in") and len(part) == 3:
        return _placing(scene, part, goal)
    raise UnsupportedGoal(
        "expected a goal that the scripted skills can reach (pick and place, open or close a drawer, close a door, "
        f"turn on a stove, drag a plate), got ({' '.join(part)}); choose another task or bring your own "
        "demonstrations"
    )


def _placing(scene: Scene, part: tuple[str, ...], goal: Sequence[tuple[str, ...]]) -> list[Skill]:
    name, target = part[1:]
    region = scene.region(target)
    if region is not None and "basket" in (region.parent_name or ""):
        return [PickAndPlaceIn(scene, name, target, region.parent_name)]
    if region is not None and not region.parent_name and name.startswith("plate"):
        return [Drag(scene, part)]
    together = [other[1] for other in goal if other[0] in ("on", "in") and other[2] == target]
    place = PickAndPlace(scene, part, (together.index(name), len(together)))
    if place.destination.excess > 0:
        raise UnsupportedGoal(
            f"expected an object that can stand where the goal wants it, got {name} whose middle would be "
            f"{100 * place.destination.excess:.1f} cm above {target}: it would have to be laid down, and there is no "
            "skill for that; choose another task or bring your own demonstrations"
        )
    if _joint(scene, target) == "drawer":
        return [Unless(part, OpenDrawer(scene, ("open", target))), place]
    return [place]


def _joint(scene: Scene, name: str) -> str:
    """ "drawer", "door" (anything that turns) or "" for what does not move."""
    if scene.region(name) is None and name not in scene.sim_env.fixtures_dict:
        return ""
    joint = scene.joint_of(name)
    return "" if joint < 0 else "drawer" if scene.model.jnt_type[joint] == 2 else "door"


class Unless:
    """A skill that prepares another part of the goal and is done with once that part holds."""

    def __init__(self, predicate: tuple[str, ...], skill: Any) -> None:
        self.predicate, self.skill = predicate, skill

    @property
    def holding(self) -> bool:
        """Whether the skill's object is in the fingers."""
        return bool(self.skill.holding)

    @property
    def distance(self) -> float:
        """From the grip site to the skill's object, metres."""
        return float(self.skill.distance)

    @property
    def finished(self) -> bool:
        """Whether it is done, or not needed any more."""
        return bool(self.skill.finished or self.skill.scene.holds(self.predicate))

    def act(self) -> Array:
        """(7,) next action."""
        return self.skill.act()


class Expert:
    """A scripted policy with privileged poses.

    Args:
        env: a `LiberoEnv` that has just been reset.

    Raises:
        UnsupportedGoal: if the task's goal needs a skill that does not exist.
    """

    def __init__(self, env: Any) -> None:
        self.scene = Scene(env)
        self._plan = plan(self.scene)

    @property
    def skill(self) -> Skill:
        """The first skill that is not finished, the last one if all are."""
        return next((skill for skill in self._plan if not skill.finished), self._plan[-1])

    @property
    def holding(self) -> bool:
        """Whether the object of the present skill is in the fingers."""
        return self.skill.holding

    @property
    def distance(self) -> float:
        """From the grip site to the object of the present skill, metres."""
        return self.skill.distance

    def act(self) -> Array:
        """(7,) clean action for the present state, each entry in [-1, 1]."""
        skill = self.skill
        if skill.finished:
            action = move(self.scene, self.scene.position + 0.02 * UP, self.scene.rotation, OPEN)
        else:
            action = skill.act()
        return np.clip(action, -1.0, 1.0)
