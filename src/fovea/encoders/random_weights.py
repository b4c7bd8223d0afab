"""`random/<encoder>`: any encoder with all that it learned thrown away, as a control in comparisons of encoders."""

import math

import torch
from torch import nn

from fovea.encoders.base import VisionEncoder
from fovea.encoders.registry import built_without_weights, create_vision_encoder
from fovea.errors import FoveaError

SEED = 0


def create_random(name: str = "random/tiny", *, tap: str | None = None, seed: int = SEED) -> VisionEncoder:
    """Build "random/<encoder>" ("random" alone is "random/tiny"): same network and preprocessing, weights drawn anew.

    The same name and seed give the same weights on every machine. timm's networks need no weights for it.

    Raises:
        FoveaError: the encoder is unknown, or its weights (of which the sizes are taken) are missing.
    """
    inner = name.partition("/")[2] or "tiny"
    if inner.partition("/")[0] == "random":
        raise FoveaError(f"expected the name of an encoder after random/, got {inner!r}")
    encoder = create_vision_encoder(inner, tap=tap, random_weights=built_without_weights(inner))
    forget(encoder, seed)
    encoder.name = name
    return encoder


def forget(module: nn.Module, seed: int) -> None:
    """Draw every parameter anew: matrices and kernels normal with variance 1 / fan-in, gains 1, offsets 0.

    Running statistics of batch normalisation become mean 0 and variance 1.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if parameter.ndim > 1:
                fan_in = math.prod(parameter.shape[1:])
                drawn = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
                parameter.copy_(drawn)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()
