"""VLA-Adapter as a LeRobot policy."""

from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vlm_policy.policy import VLMPolicy


class VLAAdapterPolicy(VLMPolicy):
    """VLA-Adapter, base and pro: see `VLMPolicy` for how it is used, `ChunkNetwork` for what it computes."""

    config_class = VLAAdapterConfig
    name = "vla_adapter"
    config: VLAAdapterConfig
