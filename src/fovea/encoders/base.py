"""What every frozen encoder offers: pictures as Tokens, and for a dual encoder words in the same space.

Shape letters: B batch, N patches (row-major grid), M word positions, D width, H W pixels.
"""

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.nn.onednn import use_onednn
from fovea.tokens import Tokens

TAPS = ("attn_qk", "attn_qq", "out")


class VisionEncoder(nn.Module, ABC):
    """An encoder of pictures: a picture becomes patches. It need not know words (DINOv2 does not).

    An encoder is frozen: `create_vision_encoder` returns it in eval mode and without gradients, and its features are
    computed once a frame and cached. A subclass sets the attributes below in its constructor and implements
    `preprocess`, `encode_image` and `describe`.

    Attributes:
        name: the registry name that builds it again ("dinov2", "timm/vit_small_patch14_dinov2.lvd142m").
        image_size: side in pixels of the square picture the network sees.
        grid: (rows, columns) of patches; N = rows * columns.
        width: D, the size of a patch.
        tap: where patches are read; every family of encoders has its own.
    """

    name: str
    image_size: int
    grid: tuple[int, int]
    width: int
    tap: str

    @abstractmethod
    def preprocess(self, images: Tensor) -> Tensor:
        """Turn uint8 pictures (B, 3, H, W) of any size into the float input of the network."""

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tokens:
        """Encode upright RGB uint8 pictures (B, 3, H, W): patches at `tap`, (B, N, D)."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything but the weights that changes features: preprocessing, sizes, vocabulary (JSON-able)."""

    @cached_property
    def identity(self) -> str:
        """sha256 over weights, tap and preprocessing: encoders with one identity give the same features.

        Non-obvious: computed once; an encoder whose weights change afterwards keeps the old identity.
        """
        digest = hashlib.sha256(json.dumps([self.tap, self.describe()], sort_keys=True).encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(f"{key}:{value.dtype}:{tuple(value.shape)}".encode())
            # numpy has no bfloat16: hash the raw bytes
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        """Where its weights are; the processor if it has none."""
        held = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if held is None else held.device

    def freeze(self) -> Self:
        """Eval mode, no gradients, products through oneDNN on a CPU; returns itself."""
        return use_onednn(self).eval().requires_grad_(False)


class Encoder(VisionEncoder):
    """A dual encoder: a picture becomes patches, a sentence becomes words, all of them in one joint space.

    Patches are L2-normalised: a word and the patch that shows it have a large dot product.

    Attributes:
        max_words: M, the number of word positions `encode_text` returns, padding included.
        temperature: image-text temperature of the encoder's own training loss (the initial value of tau).
        tap: where patches are read. `attn_qk`: output of the last block's attention, projection included, no
            residual, no MLP (X_attn, EF-VLA eq. 2); `attn_qq`: the same with query-query attention
            (ClearCLIP); `out`: the ordinary output of the network.
    """

    max_words: int
    temperature: float

    @abstractmethod
    def encode_text(self, sentences: Sequence[str]) -> Tokens:
        """Encode sentences: L2-normalised words, values (B, M, D); mask (B, M) is True on words only."""

    @abstractmethod
    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """Encode whole sentences: (B, D), L2-normalised."""


def check_images(images: Tensor) -> None:
    """Refuse anything that is not uint8 (B, 3, H, W)."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise FoveaError(
            f"expected uint8 pictures of shape (B, 3, H, W), got {images.dtype} {tuple(images.shape)}; "
            "channels come second and values are 0..255"
        )


def normalise_pixels(
    images: Tensor, size: int, mean: Sequence[float], std: Sequence[float], interpolation: str = "bicubic"
) -> Tensor:
    """uint8 (B, 3, H, W) -> float (B, 3, size, size): squashed with antialiasing, minus mean, over std (of [0, 1])."""
    check_images(images)
    pixels = images.float() / 255
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode=interpolation, antialias=True, align_corners=False)
        pixels = pixels.clamp(0, 1)
    centre, spread = (pixels.new_tensor(values)[:, None, None] for values in (mean, std))
    return (pixels - centre) / spread


def check_sentences(sentences: Sequence[str]) -> list[str]:
    """Refuse a bare string (it would be read letter by letter) and anything that is not text."""
    if isinstance(sentences, str) or not all(isinstance(sentence, str) for sentence in sentences):
        raise FoveaError(f'expected a list of sentences such as ["pick up the milk"], got {sentences!r}')
    return list(sentences)


def check_tap(tap: str, allowed: Sequence[str] = TAPS) -> str:
    """Return `tap`, or say which taps exist."""
    if tap not in allowed:
        raise FoveaError(f"expected a tap among {', '.join(allowed)}, got {tap!r}")
    return tap
