"""Configuration of VLA-Adapter."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lerobot.configs import PreTrainedConfig

from fovea.errors import FoveaError
from fovea.fusion.rotary import RotaryKind
from fovea.nn.gates import GateKind
from fovea.policies.vlm_policy.configuration import VLMPolicyConfig


@PreTrainedConfig.register_subclass("vla_adapter")
@dataclass
class VLAAdapterConfig(VLMPolicyConfig):
    """VLA-Adapter (arXiv 2509.09372); fields as in `VLMPolicyConfig`, and two of its own.

    Args:
        variant: `base`: one key and one value projection for all tokens, no positions; `pro`: a pair for each of chunk,
            queries and vision, and rotary positions.
        compat: reproduce the public weights: chunks begin at zeros, rotary positions are what the release computes, the
            blocks of pro hold the layer that nothing reads, narrow ranges of states and actions are not widened, and
            actions beyond q01 and q99 are played.
    """

    variant: Literal["base", "pro"] = "base"
    compat: bool = False
    gate: GateKind = "scalar"

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {}, "full": {}}

    def __post_init__(self) -> None:
        if self.variant not in ("base", "pro"):
            raise FoveaError(f"expected variant among base, pro, got {self.variant!r}")
        pro = self.variant == "pro"
        rotary: RotaryKind = ("compat" if self.compat else "true") if pro else "none"
        if self.rotary not in ("none", rotary):
            raise FoveaError(
                f"expected rotary={rotary} with variant={self.variant} and compat={self.compat}, got {self.rotary}; "
                "variant and compat decide it"
            )
        self.separate_projections, self.rotary = pro, rotary
        if self.compat:
            self.chunk_queries = "zeros"
        super().__post_init__()

    @property
    def as_released(self) -> bool:
        return self.compat or super().as_released

    @property
    def film(self) -> bool:
        """Whether blocks hold VLA-Adapter-Pro's unused layer."""
        return self.compat and self.variant == "pro"

    @property
    def title(self) -> str:
        """What reports call the policy."""
        return "VLA-Adapter-Pro" if self.variant == "pro" else "VLA-Adapter"
