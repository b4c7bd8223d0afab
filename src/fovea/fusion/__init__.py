"""Vision and language: what the policy gets to see."""

from fovea.fusion.base import Fusion
from fovea.fusion.early import EarlyFusion
from fovea.fusion.late import LateFusion

FUSIONS: dict[str, type[Fusion]] = {"early": EarlyFusion, "late": LateFusion}

__all__ = ["FUSIONS", "EarlyFusion", "Fusion", "LateFusion"]
