"""FocusVLA as a LeRobot policy."""

from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.vlm_policy.policy import VLMPolicy


class FocusVLAPolicy(VLMPolicy):
    """FocusVLA (section 3.3): see `VLMPolicy` for how it is used, `ChunkNetwork` for what it computes."""

    config_class = FocusVLAConfig
    name = "focus_vla"
    config: FocusVLAConfig
