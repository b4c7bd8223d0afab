"""Configuration of FocusVLA."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs import PreTrainedConfig

from fovea.fusion.focus import Scope
from fovea.nn.gates import GateKind
from fovea.policies.vlm_policy.configuration import Attention, Representation, VLMPolicyConfig


@PreTrainedConfig.register_subclass("focus_vla")
@dataclass
class FocusVLAConfig(VLMPolicyConfig):
    """FocusVLA, and with other choices every rung of its ablation (Table 2); fields as in `VLMPolicyConfig`.

    Where the paper leaves a question open the defaults are: stages one after the other with residual adds, K chosen by
    every query and head among the tokens of both cameras, an element-wise gate that begins at 0.5, keys from the VLM
    and values from the vision encoder.
    """

    attention: Attention = "cascaded"
    gate: GateKind = "element"
    top_k: int | None = 256
    top_k_scope: Scope = "query"
    representation: Representation = "vlm+ds"

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {}, "full": {}}
    TOY: ClassVar[dict[str, Any]] = {"top_k": 16}

    @property
    def title(self) -> str:
        """What reports call the policy."""
        return "FocusVLA"
