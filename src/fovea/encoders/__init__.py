"""Pixels and words to Tokens: frozen, computed once a frame."""

from fovea.encoders.base import Encoder, VisionEncoder
from fovea.encoders.registry import (
    create_encoder,
    create_vision_encoder,
    list_encoders,
    list_vision_encoders,
)

__all__ = [
    "Encoder",
    "VisionEncoder",
    "create_encoder",
    "create_vision_encoder",
    "list_encoders",
    "list_vision_encoders",
]
