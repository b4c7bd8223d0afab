"""Pixels and words to Tokens: frozen, computed once a frame."""

from fovea.encoders.base import Encoder
from fovea.encoders.registry import create_encoder, list_encoders

__all__ = ["Encoder", "create_encoder", "list_encoders"]
