"""What a scripted expert may see: gripper pose, object poses and the surfaces of objects.

Lengths in metres, angles in radians, world frame unless a name says `local`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TYPE = mujoco.mjtGeom
MESH, BOX, ELLIPSOID = int(_TYPE.mjGEOM_MESH), int(_TYPE.mjGEOM_BOX), int(_TYPE.mjGEOM_ELLIPSOID)
CYLINDER, CAPSULE, SPHERE = int(_TYPE.mjGEOM_CYLINDER), int(_TYPE.mjGEOM_CAPSULE), int(_TYPE.mjGEOM_SPHERE)
MESH_POINTS = 400  # at most this many points of one mesh; enough for a silhouette
REACH = 0.70  # from the robot's base, beyond which the arm is nearly straight where the hand points down
GRID_STEP = 0.015  # spacing of the points on boxes


def _box_points(half: Array) -> Array:
    """(n, 3) grid over a box with the given half sizes."""
    axes = [np.linspace(-1, 1, int(np.clip(np.ceil(2 * h / GRID_STEP), 1, 14)) + 1) * h for h in half]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _geom_points(model: Any, geom: int) -> Array | None:
    """(n, 3) points on one geom in the geom's own frame; None for types that have no extent."""
    kind, size = int(model.geom_type[geom]), model.geom_size[geom]
    if kind == MESH:
        mesh = model.geom_dataid[geom]
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        return np.asarray(model.mesh_vert[start : start + count : max(1, count // MESH_POINTS)], np.float64)
    if kind in (BOX, ELLIPSOID):
        return _box_points(size)
    if kind in (CYLINDER, CAPSULE):
        height = size[1] + (size[0] if kind == CAPSULE else 0.0)
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        ring = np.stack([np.cos(angle) * size[0], np.sin(angle) * size[0]], -1)
        return np.concatenate([np.c_[ring, np.full(16, z)] for z in (-height, height)])
    if kind == SPHERE:
        return np.concatenate([np.eye(3), -np.eye(3)]) * size[0]
    return None


class Scene:
    """Privileged view of a LIBERO environment's simulator state.

    Args:
        env: a `LiberoEnv`; its model and data are read afresh after every reset.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.model, self.data, self.sim_env = env.model, env.data, env.sim_env
        self._site = self.sim_env.robots[0].eef_site_id
        self._parents = self.model.body_parentid
        self._finger_joints = [
            self.model.jnt_qposadr[i]
            for i in range(self.model.njnt)
            if (self.model.joint(i).name or "").startswith("gripper0_")
        ]
        self._finger_geoms = [
            set(self._geoms_below(self.model.body(name).id))
            for name in ("gripper0_leftfinger", "gripper0_rightfinger")
        ]
        fingers = set.union(*self._finger_geoms)
        robot = {
            b for b in range(self.model.nbody) if self.model.body(b).name.startswith(("robot0", "gripper0"))
        }
        self._robot_geoms = fingers | {
            g for g in range(self.model.ngeom) if self.model.geom_bodyid[g] in robot
        }
        # per instance: a cache of the class would keep closed scenes alive
        self._local_points = lru_cache(maxsize=None)(self._compute_local_points)
        self._geoms_below_cached = lru_cache(maxsize=None)(lambda body: tuple(self._geoms_below(body)))

    # ---- gripper -------------------------------------------------------------------------------------------
    @property
    def position(self) -> Array:
        """(3,) position of the grip site."""
        return np.array(self.data.site_xpos[self._site])

    @property
    def rotation(self) -> Array:
        """(3, 3) rotation of the grip site; its x axis is the closing direction of the fingers."""
        return np.array(self.data.site_xmat[self._site]).reshape(3, 3)

    @property
    def opening(self) -> float:
        """Distance between the fingers, 0 to 0.08 m."""
        return float(sum(abs(self.data.qpos[i]) for i in self._finger_joints))

    def stretch(self, position: Array) -> float:
        """Metres by which a hand at a position, pointing down, comes too near the end of the arm's reach."""
        base = self.data.xpos[self.model.body("robot0_base").id]
        return max(0.0, float(np.linalg.norm(position[:2] - base[:2])) - REACH)

    # ---- objects -------------------------------------------------------------------------------------------
    @property
    def goal(self) -> list[list[str]]:
        """The goal predicates of the task as LIBERO parses them, e.g. [["in", "milk_1", "basket_1_contain_region"]]."""
        return self.sim_env.parsed_problem["goal_state"]

    def body(self, name: str) -> int:
        """Body id of an object instance such as "milk_1"."""
        return int(self.sim_env.obj_body_id[name])

    def object_names(self) -> list[str]:
        """Names of all object and fixture instances."""
        return list(self.sim_env.obj_body_id)

    def object_position(self, name: str) -> Array:
        """(3,) origin of an object's body."""
        return np.array(self.data.xpos[self.body(name)])

    def object_rotation(self, name: str) -> Array:
        """(3, 3) rotation of an object's body."""
        return np.array(self.data.xmat[self.body(name)]).reshape(3, 3)

    def site_position(self, name: str) -> Array:
        """(3,) centre of a named region such as "basket_1_contain_region"."""
        return np.array(self.data.site_xpos[self.model.site(name).id])

    def _geoms_below(self, body: int) -> list[int]:
        bodies = {body}
        for child in range(body + 1, self.model.nbody):
            if self._parents[child] in bodies:
                bodies.add(child)
        return [g for g in range(self.model.ngeom) if self.model.geom_bodyid[g] in bodies]

    def _colliding_geoms(self, body: int) -> list[int]:
        geoms = self._geoms_below(body)
        colliding = [g for g in geoms if self.model.geom_contype[g] or self.model.geom_conaffinity[g]]
        return colliding or geoms

    def _compute_local_points(self, body: int) -> list[tuple[int, Array]]:
        found = ((g, _geom_points(self.model, g)) for g in self._colliding_geoms(body))
        return [(g, points) for g, points in found if points is not None]

    def points(self, name: str) -> Array:
        """(n, 3) points on the colliding surface of an object instance."""
        return self.body_points(self.body(name))

    def body_points(self, body: int) -> Array:
        """(n, 3) points on the colliding surface of a body and of all below it, e.g. one drawer of a cabinet."""
        parts = [
            local @ self.data.geom_xmat[g].reshape(3, 3).T + self.data.geom_xpos[g]
            for g, local in self._local_points(body)
        ]
        return np.concatenate(parts) if parts else np.array(self.data.xpos[body])[None]

    def obstacles(self, *excluded: str) -> Array:
        """(n, 3) points on every object but the excluded ones, for clearance."""
        parts = [self.points(name) for name in self.object_names() if name not in excluded]
        return np.concatenate(parts) if parts else np.zeros((0, 3))

    def is_held(self, name: str) -> bool:
        """Whether both fingers touch the object."""
        return self.fingers_touch(self.body(name))

    def fingers_touch(self, body: int) -> bool:
        """Whether both fingers touch a body, or one below it."""
        target = set(self._geoms_below_cached(body))
        touching = [False, False]
        for pair in self._contacts():
            if not pair & target:
                continue
            for side in (0, 1):
                touching[side] |= bool(pair & self._finger_geoms[side])
        return all(touching)

    def rests(self, name: str) -> bool:
        """Whether the object touches something that is not the robot."""
        target = set(self._geoms_below_cached(self.body(name)))
        return any(
            bool(pair & target) and not pair <= target and not pair & self._robot_geoms
            for pair in self._contacts()
        )

    def _contacts(self) -> list[set[int]]:
        """Pairs of geoms in contact."""
        first, second = self.data.contact.geom1, self.data.contact.geom2
        return [{int(a), int(b)} for a, b in zip(first, second, strict=True)]

    # ---- the task ------------------------------------------------------------------------------------------
    def holds(self, predicate: Sequence[str]) -> bool:
        """Whether a goal predicate such as ("on", "bowl_1", "plate_1") holds, as LIBERO judges it."""
        return bool(self.sim_env._eval_predicate(predicate))

    def region(self, name: str) -> Any | None:
        """LIBERO's description of a region (`parent_name`, `size`, `joints`); None if it is not a region."""
        return self.sim_env.object_sites_dict.get(name)

    def joint_of(self, name: str) -> int:
        """Joint of a drawer's region or of a fixture with one joint, such as a stove; -1 without one."""
        owner = self.region(name) or self.sim_env.get_object(name)
        return int(self.model.joint(owner.joints[0]).id) if owner.joints else -1

    def joint_position(self, joint: int) -> float:
        """Metres of a slide, radians of a hinge."""
        return float(self.data.qpos[self.model.jnt_qposadr[joint]])

    def joint_axis(self, joint: int) -> Array:
        """(3,) axis of a joint in the world."""
        body = self.model.jnt_bodyid[joint]
        return np.array(self.data.xmat[body]).reshape(3, 3) @ self.model.jnt_axis[joint]

    def table_height(self) -> float:
        """Height of the table: the lowest point of what may be moved."""
        return min(float(self.points(name)[:, 2].min()) for name in self.sim_env.objects_dict)
