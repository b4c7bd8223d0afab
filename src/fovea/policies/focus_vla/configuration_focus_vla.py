"""Configuration of FocusVLA."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs import PreTrainedConfig

from fovea.fusion.focus import Scope
from fovea.nn.gates import GateKind
from fovea.policies.vlm_policy.configuration import Attention, Representation, VLMPolicyConfig

HALF = -1  # of the vision tokens that the VLM of this kind sees


@PreTrainedConfig.register_subclass("focus_vla")
@dataclass
class FocusVLAConfig(VLMPolicyConfig):
    """FocusVLA, and with other choices every rung of its ablation (Table 2); fields as in `VLMPolicyConfig`.

    The defaults are the preset `tiny`. K (`top_k`) is half of the vision tokens unless it is given, whatever the
    cameras and the pooling: 64 of the 128 of `tiny` with two cameras, 256 of the 512 of the paper's VLM
    (`vlm.kind=prismatic`, preset `full`). Where the paper leaves a question open: stages come one after the other with
    residual adds, every query and head chooses its own K among the tokens of both cameras, an element-wise gate begins
    at 0.5, keys are made of the VLM's states and values of the vision encoder's features.
    """

    attention: Attention = "cascaded"
    gate: GateKind = "element"
    top_k: int | None = HALF
    top_k_scope: Scope = "query"
    representation: Representation = "vlm+ds"

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {}, "full": {}}
    TOY: ClassVar[dict[str, Any]] = {"top_k": 16}

    def __post_init__(self) -> None:
        self._half = self.top_k == HALF
        self.settle()
        super().__post_init__()

    def settle(self) -> None:
        """Half of the tokens that the cameras give by now, if nobody chose K."""
        if self._half:
            rows, columns = self.vlm.encoder_grid or (16, 16)  # of the encoder that ships, and of the papers'
            side = self.vlm.patch_pool * (2 if self.pool_vision else 1)
            self.top_k = max(1, len(self.camera_keys) * (rows // side) * (columns // side) // 2)

    @property
    def title(self) -> str:
        """What reports call the policy."""
        return "FocusVLA"
