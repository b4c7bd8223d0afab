"""From policy tokens to a chunk of future actions."""

from fovea.heads.chunk import ChunkHead, ChunkStem
from fovea.heads.regression import RegressionHead

__all__ = ["ChunkHead", "ChunkStem", "RegressionHead"]
