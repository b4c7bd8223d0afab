"""LeRobot's processor pipelines for policies over a VLM: q01 and q99 become -1 and 1, the gripper stays."""

from typing import Any

from lerobot.processor import PolicyProcessorPipeline

from fovea.policies.statistics import make_adjusted_processors
from fovea.policies.vlm_policy.configuration import ACTION, STATE, VLMPolicyConfig


def make_processors(
    config: VLMPolicyConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Build LeRobot's default pipelines over quantiles (see `fovea.policies.statistics`).

    A gripper that is played as open or close stays -1 or +1. A dimension that hardly moves is not blown up, except for
    public weights (`gripper=one_is_open`), which were trained so.
    """
    exact = "exact_" if config.gripper == "one_is_open" else ""
    action = "action_quantiles" if config.gripper == "as_is" else "quantiles_but_gripper"
    return make_adjusted_processors(
        config, dataset_stats, {STATE: f"{exact}quantiles", ACTION: exact + action}
    )
