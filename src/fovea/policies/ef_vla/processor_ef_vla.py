"""LeRobot's processor pipelines for EF-VLA: scaling before and after the policy."""

from typing import Any

from lerobot.processor import PolicyProcessorPipeline

from fovea.policies.ef_vla.configuration_ef_vla import ACTION, STATE, EFVLAConfig
from fovea.policies.statistics import make_adjusted_processors


def make_ef_vla_pre_post_processors(
    config: EFVLAConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Build LeRobot's default pipelines over statistics that suit the policy (see `scaling_rules`)."""
    return make_adjusted_processors(config, dataset_stats, scaling_rules(config))


def scaling_rules(config: EFVLAConfig) -> dict[str, str]:
    """Which columns are scaled otherwise than LeRobot does; see `fovea.policies.statistics`.

    States of layout `axis_angle` keep their rotation. Actions in `env` of such a robot are changes of pose: zero stays
    zero. A gripper that opens or closes (`gripper_loss=bce`) stays -1 or +1.

    Non-obvious: `as_is` means that nothing is known of the robot, so its actions may be absolute positions, and zero
    nothing special: they are scaled by q01 and q99, as LeRobot does.
    """
    rules = {}
    if config.state_layout == "axis_angle":
        rules[STATE] = "rotation_untouched"
    if config.action_space == "env" and (config.state_layout == "axis_angle" or config.gripper_loss == "bce"):
        rules[ACTION] = "symmetric_but_gripper" if config.gripper_loss == "bce" else "symmetric"
    return rules
