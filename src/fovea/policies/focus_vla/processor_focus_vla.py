"""LeRobot's processor pipelines for FocusVLA, under the name that LeRobot looks for."""

from fovea.policies.vlm_policy.processors import make_processors as make_focus_vla_pre_post_processors

__all__ = ["make_focus_vla_pre_post_processors"]
