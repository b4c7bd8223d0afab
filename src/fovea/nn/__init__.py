"""Plain torch building blocks: they know no robot and no LeRobot."""

from fovea.nn.attention import CausalSelfAttention, CrossAttention, mlp
from fovea.nn.pooling import Readouts
from fovea.nn.positions import sincos_1d, sincos_2d
from fovea.nn.transformer import CausalTransformer, KeyValueCache

__all__ = [
    "CausalSelfAttention",
    "CausalTransformer",
    "CrossAttention",
    "KeyValueCache",
    "Readouts",
    "mlp",
    "sincos_1d",
    "sincos_2d",
]
