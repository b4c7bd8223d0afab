"""Vision and language: what the policy gets to see."""

from fovea.fusion.base import Fusion
from fovea.fusion.cascaded import CascadedAttention
from fovea.fusion.early import EarlyFusion
from fovea.fusion.focus import FocusAttention, Selection
from fovea.fusion.late import LateFusion
from fovea.fusion.mixed import MixedAttention

FUSIONS: dict[str, type[Fusion]] = {"early": EarlyFusion, "late": LateFusion}

__all__ = [
    "FUSIONS",
    "CascadedAttention",
    "EarlyFusion",
    "FocusAttention",
    "Fusion",
    "LateFusion",
    "MixedAttention",
    "Selection",
]
