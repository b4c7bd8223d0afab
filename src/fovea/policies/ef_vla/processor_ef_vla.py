"""LeRobot's processor pipelines for EF-VLA: scaling before and after the policy."""

from copy import deepcopy
from typing import Any

import numpy as np
from lerobot.processor import PolicyProcessorPipeline, make_default_pre_post_processors

from fovea.policies.ef_vla.configuration_ef_vla import ACTION, STATE, EFVLAConfig

SMALLEST_SCALE = 0.05  # of LIBERO's [-1, 1]: a dimension that hardly moves is not blown up
ROTATION = slice(3, 6)


def make_ef_vla_pre_post_processors(
    config: EFVLAConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Build LeRobot's default pipelines over statistics that suit the policy (see `policy_stats`).

    Non-obvious: `lerobot-train --policy.path=...` puts the new dataset's plain statistics into saved pipelines
    and so undoes `policy_stats`; fine-tune with `fovea train`, or with pipelines made here.
    """
    stats = None if dataset_stats is None else policy_stats(config, dataset_stats)
    return make_default_pre_post_processors(config, stats, normalizer_device=config.device)


def policy_stats(config: EFVLAConfig, dataset_stats: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Adjust a dataset's statistics for the normalisers.

    States of layout `axis_angle`: mean and deviation on position and gripper only; the rotation passes untouched,
    since the policy turns it into a matrix. Actions in `env`: scaled by the larger of |q01| and |q99| (so zero
    stays zero and small rotations are not lost), the gripper, -1 or +1, untouched.
    """
    stats = deepcopy(dataset_stats)
    if STATE in stats and config.state_layout == "axis_angle":
        mean, std = (np.array(stats[STATE][name], dtype=np.float32) for name in ("mean", "std"))
        mean[ROTATION], std[ROTATION] = 0.0, 1.0
        stats[STATE].update(mean=mean, std=np.maximum(std, 1e-3))
    if ACTION in stats and config.action_space == "env":
        low, high = (_quantile(stats[ACTION], name, edge) for name, edge in (("q01", "min"), ("q99", "max")))
        scale = np.maximum(np.maximum(np.abs(low), np.abs(high)), SMALLEST_SCALE)
        scale[-1] = 1.0
        stats[ACTION].update(q01=-scale, q99=scale)
    return stats


def _quantile(stats: dict[str, Any], name: str, edge: str) -> np.ndarray:
    """A quantile, or the extreme value where a dataset has no quantiles."""
    return np.array(stats[name] if name in stats else stats[edge], dtype=np.float32)
