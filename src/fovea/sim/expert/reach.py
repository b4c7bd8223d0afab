"""Whether the arm can bring the hand into a pose: inverse kinematics within the joints' limits."""

from typing import Any

import mujoco
import numpy as np

from fovea.sim.expert.grasp import turn_between
from fovea.sim.expert.scene import Array, Scene

ITERATIONS, DAMPING, MARGIN = 60, 0.02, 0.05
CLOSE_ENOUGH, STRAIGHT_ENOUGH = 0.01, 0.1  # metres, radians


def can_reach(scene: Scene, position: Array, rotation: Array) -> bool:
    """Whether damped least squares, from the present joint angles, bring the grip site to a pose.

    Args:
        position, rotation: (3,) and (3, 3) of the grip site.
    """
    model: Any = scene.model
    data = mujoco.MjData(model)
    data.qpos[:] = scene.data.qpos
    robot = scene.sim_env.robots[0]
    angles = np.asarray(robot._ref_joint_pos_indexes)
    speeds = np.asarray(robot._ref_joint_vel_indexes)
    low, high = model.jnt_range[robot._ref_joint_indexes].T
    site = robot.eef_site_id
    jacobian = np.zeros((6, model.nv))
    for _ in range(ITERATIONS):
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        away = position - data.site_xpos[site]
        turn = turn_between(data.site_xmat[site].reshape(3, 3), rotation)
        if np.linalg.norm(away) < CLOSE_ENOUGH and np.linalg.norm(turn) < STRAIGHT_ENOUGH:
            return True
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
        arm = jacobian[:, speeds]
        step = arm.T @ np.linalg.solve(arm @ arm.T + DAMPING * np.eye(6), np.concatenate([away, turn]))
        data.qpos[angles] = np.clip(data.qpos[angles] + np.clip(step, -0.3, 0.3), low + MARGIN, high - MARGIN)
    return False
