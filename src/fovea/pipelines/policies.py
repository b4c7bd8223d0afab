"""Our policies by their configuration: the encoder whose features are cached, the policy itself, its processors."""

from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy

from fovea.encoders import VisionEncoder, create_encoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import PRESETS as EF_VLA_PRESETS
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vlm_policy.configuration import VLMPolicyConfig

CONFIGS: dict[str, type[EFVLAConfig] | type[VLAAdapterConfig] | type[FocusVLAConfig]] = {
    "ef_vla": EFVLAConfig,
    "vla_adapter": VLAAdapterConfig,
    "focus_vla": FocusVLAConfig,
}


def config_class(name: str) -> type[EFVLAConfig] | type[VLAAdapterConfig] | type[FocusVLAConfig]:
    """The configuration of a policy type.

    Raises:
        FoveaError: no such type.
    """
    if name not in CONFIGS:
        raise FoveaError(f"expected a policy type among {', '.join(CONFIGS)}, got {name!r}")
    return CONFIGS[name]


def presets(name: str) -> list[str]:
    """Names of a policy type's presets."""
    return list(getattr(config_class(name), "PRESETS", EF_VLA_PRESETS))


def encoder_of(config: PreTrainedConfig) -> VisionEncoder | None:
    """The frozen encoder whose features are cached for a policy; None where it trains its own inside a VLM.

    Raises:
        FoveaError: the encoder cannot be built, or the policy wants states that no data set holds.
    """
    if isinstance(config, VLMPolicyConfig):
        if config.states_from == "batch":
            raise FoveaError("expected states_from=vlm: data sets hold no states of a VLM")
        if config.uses_pixels:
            return None
        from fovea.vlm.create import create_vision

        return create_vision(config.vlm)
    if isinstance(config, EFVLAConfig):
        return create_encoder(config.encoder, tap=config.tap)
    raise FoveaError(f"expected one of our policies ({', '.join(CONFIGS)}), got {config.type}")


def build_policy(config: PreTrainedConfig, encoder: VisionEncoder | None = None) -> PreTrainedPolicy:
    """A policy with new weights, on the device of its configuration, sharing `encoder` where it is given."""
    policy_class: Any = get_policy_class(config.type)
    return policy_class(config, **({} if encoder is None else {"encoder": encoder})).to(config.device)


def build_processors(config: PreTrainedConfig, stats: dict[str, dict[str, Any]]) -> tuple[Any, Any]:
    """The policy's own LeRobot pipelines over a data set's statistics."""
    return make_pre_post_processors(config, dataset_stats=stats)
