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
    public weights, which were trained so.
    """
    plain = config.gripper == "as_is"
    if config.as_released:
        rules = {
            STATE: "exact_quantiles",
            ACTION: "exact_quantiles" if plain else "exact_quantiles_but_gripper",
        }
    else:
        rules = {STATE: "quantiles", ACTION: "action_quantiles" if plain else "quantiles_but_gripper"}
    return make_adjusted_processors(config, dataset_stats, rules)
