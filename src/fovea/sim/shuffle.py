"""One random moment of a scene: objects, arm, lights and cameras anywhere a robot might see them.

Poses are written, not simulated: pictures need no physics.
"""

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

WORKSPACE = ((-0.26, -0.31), (0.2, 0.31))  # low and high corner, metres
SPACING = 0.095  # between objects' centres; some touch, as they do in life
FURNITURE_SPACING = 0.2
FAR = 30.0  # metres: out of every camera's sight
HIDDEN, LYING, HELD = 0.1, 0.06, 0.12  # shares
ARM_AWAY = 0.12  # share of moments in which the hand is high and back


class SceneShuffler:
    """Draws moments of one built scene.

    Args:
        sim_env: robosuite's environment.
        rng: draws everything.
    """

    def __init__(self, sim_env: Any, rng: np.random.Generator) -> None:
        self.rng = rng
        self.model, self.data = sim_env.sim.model._model, sim_env.sim.data._data
        model = self.model
        self.free = {
            name: int(model.jnt_qposadr[model.body_jntadr[sim_env.obj_body_id[name]]])
            for name in sim_env.objects_dict
        }
        workspace = sim_env.workspace_name if hasattr(sim_env, "workspace_name") else None
        self.fixtures = {
            name: int(sim_env.obj_body_id[name])
            for name in sim_env.fixtures_dict
            if name in sim_env.obj_body_id and name != workspace
        }
        self.site = int(sim_env.robots[0].eef_site_id)
        self.arm = [int(i) for i in sim_env.robots[0]._ref_joint_pos_indexes]
        self.arm_dofs = [int(i) for i in sim_env.robots[0]._ref_joint_vel_indexes]
        self.fingers = [int(i) for i in sim_env.robots[0]._ref_gripper_joint_pos_indexes]
        self.start = self.data.qpos.copy()
        self.surface = min((self.start[a + 2] for a in self.free.values()), default=0.0) - 0.02
        self.cameras = [model.camera(name).id for name in ("agentview", "robot0_eye_in_hand")]
        self.stock = {
            k: getattr(model, k).copy()
            for k in (
                "cam_pos",
                "cam_quat",
                "cam_fovy",
                "body_pos",
                "body_quat",
                "light_pos",
                "light_diffuse",
            )
        }
        self.headlight = np.array(model.vis.headlight.diffuse)

    def shuffle(self) -> None:
        """Write a new moment into the simulation's state and into the model's cameras and lights."""
        for name, value in self.stock.items():
            getattr(self.model, name)[:] = value
        self.data.qpos[:] = self.start
        spots = self._place_furniture()
        spots = self._place_objects(spots)
        self._pose_arm(spots)
        if self.rng.random() < HELD:
            self._hold_something()
        self._move_lights()
        self._move_cameras()
        mujoco.mj_forward(self.model, self.data)

    def _spot(self, taken: list[Array], spacing: float) -> Array:
        for _ in range(60):
            point = self.rng.uniform(*WORKSPACE)
            if all(np.linalg.norm(point - other) > spacing for other in taken):
                break
        return point

    def _place_furniture(self) -> list[Array]:
        taken: list[Array] = []
        for body in self.fixtures.values():
            edge = self.rng.choice([-0.28, 0.28])
            point = np.array([self.rng.uniform(-0.3, 0.2), edge + self.rng.normal(0, 0.04)])
            if any(np.linalg.norm(point - other) < 0.3 for other in taken):
                point = np.array([FAR, FAR * (len(taken) + 1)])
            self.model.body_pos[body, :2] = point
            turn = Rotation.from_euler(
                "z", self.rng.choice([0, np.pi / 2, np.pi, -np.pi / 2]) + self.rng.normal(0, 0.2)
            )
            self.model.body_quat[body] = _compose(turn, self.model.body_quat[body])
            taken.append(point)
        return taken

    def _place_objects(self, furniture: list[Array]) -> list[Array]:
        spots: list[Array] = []
        for address in self.free.values():
            pose = self.data.qpos[address : address + 7]
            if self.rng.random() < HIDDEN:
                pose[:2] += FAR
                continue
            point = self._spot(spots, SPACING)
            if any(np.linalg.norm(point - other) < FURNITURE_SPACING for other in furniture):
                point = self._spot([*spots, *furniture], FURNITURE_SPACING)
            pose[:2] = point
            turn = Rotation.from_euler(
                "z", self.rng.uniform(-np.pi, np.pi) if self.rng.random() < 0.3 else self.rng.normal(0, 0.4)
            )
            if self.rng.random() < LYING:
                turn = turn * Rotation.from_euler("x", self.rng.choice([-np.pi / 2, np.pi / 2]))
            pose[3:] = _compose(turn, pose[3:])
            spots.append(point)
        return spots

    def _pose_arm(self, spots: list[Array]) -> None:
        """Bring the hand to a random place by damped least squares; the fingers open or closed."""
        rng = self.rng
        if rng.random() < ARM_AWAY:
            goal = np.array(
                [rng.uniform(-0.35, -0.25), rng.uniform(-0.1, 0.1), self.surface + rng.uniform(0.35, 0.5)]
            )
        else:
            near = (
                spots[rng.integers(len(spots))] if spots and rng.random() < 0.65 else rng.uniform(*WORKSPACE)
            )
            height = rng.uniform(0.05, 0.3) if rng.random() < 0.75 else rng.uniform(0.02, 0.08)
            goal = np.array([*(near + rng.normal(0, 0.035, 2)), self.surface + height])
        yaw = np.pi / 2 + rng.normal(0, 0.25)
        x, z = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([0.0, 0.0, -1.0])
        wanted = Rotation.from_rotvec(rng.normal(0, 0.06, 3)).as_matrix() @ np.stack(
            [x, np.cross(z, x), z], 1
        )
        jacobian = np.zeros((6, self.model.nv))
        for _ in range(25):
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            error = np.zeros(6)
            error[:3] = goal - self.data.site_xpos[self.site]
            current = self.data.site_xmat[self.site].reshape(3, 3)
            error[3:] = Rotation.from_matrix(wanted @ current.T).as_rotvec()
            mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self.site)
            j = jacobian[:, self.arm_dofs]
            step = j.T @ np.linalg.solve(j @ j.T + 1e-3 * np.eye(6), np.clip(error, -0.2, 0.2))
            low, high = self.model.jnt_range[:7].T
            self.data.qpos[self.arm] = np.clip(self.data.qpos[self.arm] + step, low, high)
        opening = rng.choice([0.04, rng.uniform(0.0, 0.04)])
        self.data.qpos[self.fingers] = [opening, -opening]

    def _hold_something(self) -> None:
        mujoco.mj_kinematics(self.model, self.data)
        address = int(self.rng.choice(list(self.free.values())))
        self.data.qpos[address : address + 3] = self.data.site_xpos[self.site] + self.rng.normal(0, 0.012, 3)
        self.data.qpos[self.fingers] = [0.028, -0.028]

    def _move_lights(self) -> None:
        rng, model = self.rng, self.model
        model.light_pos[:] += rng.normal(0, 0.3, model.light_pos.shape)
        model.light_diffuse[:] *= rng.uniform(0.7, 1.25)
        model.vis.headlight.diffuse[:] = self.headlight * rng.uniform(0.75, 1.25)

    def _move_cameras(self) -> None:
        rng, model = self.rng, self.model
        for camera, (shift, turn, zoom) in zip(
            self.cameras, ((0.015, 0.012, 1.2), (0.004, 0.01, 1.0)), strict=True
        ):
            model.cam_pos[camera] += rng.normal(0, shift, 3)
            model.cam_quat[camera] = _compose(
                Rotation.from_rotvec(rng.normal(0, turn, 3)), model.cam_quat[camera]
            )
            model.cam_fovy[camera] += rng.normal(0, zoom)


def _compose(turn: Rotation, quaternion: Array) -> Array:
    """A wxyz quaternion turned in the outer frame."""
    return (turn * Rotation.from_quat(quaternion, scalar_first=True)).as_quat(scalar_first=True)
