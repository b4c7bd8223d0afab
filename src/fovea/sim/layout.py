"""Where an episode starts: an official initial state, or the same objects at positions drawn anew.

In libero_object some targets never move between official states: a policy can memorise them. There (and in its
held-out twin) a drawn layout spreads the objects over the whole floor. In every other suite it is a new sample of
LIBERO's own distribution: from the regions of the task's BDDL file, squares of 5 cm. A spread layout leaves those:
`fovea.sim.spread`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fovea.errors import FoveaError
from fovea.sim.geometry import pose_of
from fovea.sim.spread import REACH, spread

Layout = Literal["official", "drawn", "spread"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
IN_WORDS = {
    "official": "official initial states",
    "drawn": "object positions drawn anew",
    "spread": "objects spread over the table",
}
TARGET_SUITE = "libero_object"  # whose scenes can be given another target
FLOOR_SUITES = (TARGET_SUITE, "libero_object_holdout")  # drawn layouts cover the whole floor
NAMED_BY_PLACE = "libero_spatial"  # whose instructions tell two bowls apart by what they are next to
REGION = ((-0.23, -0.28), (0.15, 0.06))  # low and high corner of the floor region for objects, metres
ROBOT_BASE = (-0.6, 0.0)  # on that floor
SPACING = 0.105  # least distance of two objects' centres, metres
BASKET_CLEARANCE = 0.17  # least distance of an object's centre from the basket's, metres
YAW = 0.3  # radians either way
LIFT, LIFT_MOST, LIFT_DEPTH = 0.004, 0.08, 0.002  # metres: step, limit, and what may stay sunk in


@dataclass(frozen=True)
class EpisodeStart:
    """How an episode starts; the same description starts it for collection and for evaluation.

    Args:
        suite: a suite's name; task_id: a task's number in it.
        init_state: number of the official initial state.
        layout: "official"; "drawn": positions and yaws drawn anew from `seed`; or "spread": drawn, and the objects on
            the table anywhere among each other. The arm starts as in `init_state`.
        target: type of the object to pick when it is not the task's own, such as "ketchup" ("drawn" layouts of
            libero_object only).
        seed: draws the layout, and the poses of fixtures, which an initial state does not hold.
    """

    suite: str
    task_id: int
    init_state: int
    layout: str = "official"
    target: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_layout(self.layout, self.suite)
        if self.target is not None and self.layout != "drawn":
            raise FoveaError(f"a target of one's own ({self.target!r}) goes with layout='drawn' only")
        if self.target is not None and self.suite != TARGET_SUITE:
            raise FoveaError(
                f"a target of one's own ({self.target!r}) is defined for {TARGET_SUITE}, got {self.suite}: leave it out"
            )
        if not 0 <= self.seed < 2**32:
            raise FoveaError(f"seed is 0 to 2**32 - 1, got {self.seed}")

    def asdict(self) -> dict[str, Any]:
        """Plain values for JSON; `EpisodeStart(**d)` reads them back."""
        return dataclasses.asdict(self)


def check_layout(layout: str, suite: str) -> None:
    """Whether a suite's episodes can start so.

    Raises:
        FoveaError: an unknown layout, or one that makes no sense for the suite.
    """
    if layout not in LAYOUTS:
        raise FoveaError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    if layout == "spread" and suite in FLOOR_SUITES:
        raise FoveaError(
            f"layout: drawn spreads the objects of {suite} over the floor already; take that, not spread"
        )
    if layout == "spread" and suite.startswith(NAMED_BY_PLACE):
        raise FoveaError(
            f"layout: spread would make instructions of {suite} false, which name a bowl by where it is; take drawn"
        )


def draw_layout(sim_env: Any, start: EpisodeStart, sampled: NDArray) -> None:
    """Move a scene that stands in an official state to a start's drawn or spread layout.

    Args:
        sim_env: robosuite's environment.
        start: the start.
        sampled: positions (nq,) that LIBERO's reset drew from the BDDL file's regions: objects, doors and drawers.
    """
    if start.suite in FLOOR_SUITES:
        draw_on_floor(sim_env, start.seed)
        return
    robot = sim_env.robots[0]
    own = [*robot._ref_joint_pos_indexes, *robot._ref_gripper_joint_pos_indexes]
    data = sim_env.sim.data._data
    posture = data.qpos[own]
    data.qpos[:], data.qvel[:] = sampled, 0
    data.qpos[own] = posture
    if start.layout == "spread":
        spread(sim_env, start.seed)
    lift_out(sim_env)


def lift_out(sim_env: Any) -> None:
    """Raise objects that a sample of LIBERO's left sunk into what they stand on.

    Non-obvious: LIBERO takes many objects for lower than they are. On the living room's table a milk carton starts
    4 cm deep, and physics throws it up by half a metre (in the official initial states too).
    """
    import mujoco

    model, data = sim_env.sim.model._model, sim_env.sim.data._data
    for name in sim_env.objects_dict:
        body = sim_env.obj_body_id[name]
        height = pose_of(sim_env, name)[2:3]
        sunk = float(height[0])
        for lift in np.arange(0, LIFT_MOST, LIFT):
            height[0] = sunk + lift
            mujoco.mj_kinematics(model, data)
            mujoco.mj_collision(model, data)
            own = model.body_rootid[model.geom_bodyid[data.contact.geom]] == body
            depths = -data.contact.dist[own.any(1)]
            if depths.max(initial=0.0) < LIFT_DEPTH:
                break
        else:
            height[0] = sunk  # it overlaps with a neighbour, which no lift mends


def draw_on_floor(sim_env: Any, seed: int) -> None:
    """Spread the objects of a libero_object scene over the floor, see `draw_positions`; the basket stays."""
    poses = {name: pose_of(sim_env, name) for name in sim_env.objects_dict}
    basket = poses.pop("basket_1")
    for name, (point, yaw) in draw_positions(list(poses), basket[:2], seed).items():
        poses[name][:2] = point
        poses[name][3:] = turned(poses[name][3:], yaw)


def draw_positions(names: list[str], basket: NDArray, seed: int) -> dict[str, tuple[NDArray, float]]:
    """Positions (2,) in metres and yaw changes in radians for objects on libero_object's floor.

    Uniform in the region, at least `SPACING` apart and `BASKET_CLEARANCE` from the basket, by rejection.
    """
    rng = np.random.default_rng(seed)
    while True:
        placed: list[NDArray] = []
        for _ in range(400):
            point = rng.uniform(*REGION)
            too_far = np.linalg.norm(point - ROBOT_BASE) > REACH
            if too_far or np.linalg.norm(point - basket) < BASKET_CLEARANCE:
                continue
            if all(np.linalg.norm(point - other) > SPACING for other in placed):
                placed.append(point)
            if len(placed) == len(names):
                yaws = rng.uniform(-YAW, YAW, len(names))
                return {n: (p, float(y)) for n, p, y in zip(names, placed, yaws, strict=True)}


def turned(quaternion: NDArray, yaw: float) -> NDArray:
    """A wxyz quaternion turned about the world's vertical axis."""
    w, x, y, z = quaternion
    c, s = np.cos(yaw / 2), np.sin(yaw / 2)
    return np.array([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w])


def instruction_for(target: str, languages: Mapping[str, str]) -> str:
    """LIBERO's own wording for picking an object type into the basket."""
    name = f"pick_up_the_{target}_and_place_it_in_the_basket"
    return languages.get(name, f"pick up the {target.replace('_', ' ')} and place it in the basket")
