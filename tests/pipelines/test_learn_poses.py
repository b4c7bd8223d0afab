"""Relative poses in LIBERO: the actions that a policy learns from are the poses which the data's changes command."""

import numpy as np
import torch

from fovea.actions import action_towards
from fovea.pipelines.learn import commanded_poses
from fovea.policies.ef_vla.features_ef_vla import proprio_from_axis_angle


def test_commanded_poses_of_a_data_set_lead_back_to_its_actions():
    rng = np.random.default_rng(0)
    state = rng.uniform(-1, 1, (9, 8)).astype(np.float32)
    action = rng.uniform(-1, 1, (9, 7)).astype(np.float32)
    poses = commanded_poses(state, action)
    assert poses.shape == (9, 10)
    assert poses.dtype == np.float32
    assert np.allclose(poses[:, :3] - state[:, :3], 0.05 * action[:, :3], atol=1e-6)
    now = proprio_from_axis_angle(torch.from_numpy(state))
    assert np.allclose(action_towards(now, torch.from_numpy(poses)).numpy(), action, atol=1e-4)
