"""Several vision encoders side by side: their patches joined on channels (Prismatic, OpenVLA).

Shape letters: B batch, N patches, D width, S side of the square picture in pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fovea.encoders.base import VisionEncoder
from fovea.encoders.registry import create_vision_encoder, split_parts
from fovea.errors import FoveaError
from fovea.tokens import Tokens


class FusedEncoder(VisionEncoder):
    """Encoders of one picture size and one grid; each sees the picture with its own mean and std.

    Args:
        parts: the encoders, in the order of their channels.
        name: registry name, "<part>+<part>".

    Raises:
        FoveaError: fewer than two parts, or parts of different sizes, grids or taps.
    """

    parts: nn.ModuleList

    def __init__(self, parts: Sequence[VisionEncoder], *, name: str) -> None:
        super().__init__()
        facts = [(part.image_size, part.grid, part.tap) for part in parts]
        if len(parts) < 2 or len(set(facts)) > 1:
            raise FoveaError(
                "expected two or more encoders of one picture size, grid and tap, got "
                + ", ".join(f"{part.name} with {fact}" for part, fact in zip(parts, facts, strict=True))
                + "; choose sizes with @, such as dinov2@224+siglip@224"
            )
        self.parts = nn.ModuleList(parts)
        self.name = name
        self.image_size, self.grid, self.tap = facts[0]
        self.width = sum(part.width for part in parts)

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> each part's pixels on top of one another, (B, 3 * parts, S, S), as in Prismatic."""
        return torch.cat([part.preprocess(images) for part in self._parts()], dim=1)

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W), upright RGB -> joined patches, values (B, N, D)."""
        encoded = [part.encode_image(images) for part in self._parts()]
        return Tokens(torch.cat([tokens.values for tokens in encoded], dim=-1), encoded[0].mask)

    def describe(self) -> dict[str, Any]:
        """Everything but the weights that changes features."""
        return {"parts": [part.describe() for part in self._parts()]}

    def _parts(self) -> list[VisionEncoder]:
        return [part for part in self.parts if isinstance(part, VisionEncoder)]


def create_fused(name: str, *, tap: str | None = None, **kwargs: Any) -> FusedEncoder:
    """Build "<encoder>+<encoder>", "dinov2+siglip" being that of Prismatic; keyword arguments go to every part."""
    parts = [create_vision_encoder(part, tap=tap, **kwargs) for part in split_parts(name)]
    return FusedEncoder(parts, name=name)
