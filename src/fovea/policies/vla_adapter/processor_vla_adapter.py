"""LeRobot's processor pipelines for VLA-Adapter, under the name that LeRobot looks for."""

from fovea.policies.vlm_policy.processors import make_processors as make_vla_adapter_pre_post_processors

__all__ = ["make_vla_adapter_pre_post_processors"]
