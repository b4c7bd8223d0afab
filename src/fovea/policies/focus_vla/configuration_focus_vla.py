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

    The defaults are the preset `tiny`, which sees 128 vision tokens; K is half of them, as in the paper (256 of 512,
    preset `full`). Where the paper leaves a question open: stages come one after the other with residual adds, every
    query and head chooses its own K among the tokens of both cameras, an element-wise gate begins at 0.5, keys are made
    of the VLM's states and values of the vision encoder's features.
    """

    attention: Attention = "cascaded"
    gate: GateKind = "element"
    top_k: int | None = 64
    top_k_scope: Scope = "query"
    representation: Representation = "vlm+ds"

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {}, "full": {"top_k": 256}}
    TOY: ClassVar[dict[str, Any]] = {"top_k": 16}

    @property
    def title(self) -> str:
        """What reports call the policy."""
        return "FocusVLA"
