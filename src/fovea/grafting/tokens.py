"""Tokens of a frozen encoder, computed once per (encoder, frame) and shared by every backbone, seed and control.

They are kept pooled, in all sizes that the plan wants, in the feature cache of `fovea.data.feature_cache`.

Shapes: B pictures, N patches, V width of the encoder, C cameras.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fovea.data.feature_build import build_features
from fovea.data.feature_cache import FeatureCache
from fovea.data.files import atomic_write
from fovea.encoders.base import VisionEncoder, check_images
from fovea.encoders.registry import create_vision_encoder
from fovea.grafting.backbones import Backbone
from fovea.grafting.cells import native_source
from fovea.grafting.samples import FrameSubset
from fovea.grafting.wrapper import check_square, pool
from fovea.tokens import Tokens

TAP = re.compile(r"([^@]+(?:@\d+)?)@([a-zA-Z]\w*)")


class PooledEncoder(VisionEncoder):
    """An encoder whose patches are pooled to several sizes at once, one behind the other.

    A size as fine as the encoder's own grid, or finer, is kept as its own grid: pooling it then loses nothing.

    Args:
        encoder: with a square grid.
        sides: wanted sizes.

    Raises:
        FoveaError: the encoder's grid is not square.
    """

    def __init__(self, encoder: VisionEncoder, sides: Iterable[int]) -> None:
        super().__init__()
        check_square(encoder.grid, f"the encoder {encoder.name}")
        self.encoder, self.own = encoder, encoder.grid[0]
        self.parts = sorted({min(side, self.own) for side in sides})
        self.name, self.tap, self.image_size = encoder.name, encoder.tap, encoder.image_size
        self.grid, self.width = (1, sum(part * part for part in self.parts)), encoder.width

    def preprocess(self, images: Tensor) -> Tensor:
        """The encoder's own."""
        return self.encoder.preprocess(images)

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W) -> all sizes of patches, (B, N, V)."""
        patches = self.encoder.encode_image(images).values.float()
        values = torch.cat([pool(patches, self.encoder.grid, part) for part in self.parts], dim=1)
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def describe(self) -> dict[str, Any]:
        """What is pooled."""
        return {"identity": self.encoder.identity, "parts": self.parts}

    @property
    def identity(self) -> str:
        """sha256 over the encoder's identity and the sizes."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()


class NativeVision(VisionEncoder):
    """A backbone's own vision as an encoder: its tower's patches, or (`tower=False`) its finished tokens."""

    def __init__(self, backbone: Backbone, *, tower: bool) -> None:
        super().__init__()
        self.backbone, self.of_tower = backbone, tower
        self.name = native_source(backbone.name, tower=tower)
        self.tap, self.image_size = "tower" if tower else "tokens", backbone.image_size[0]
        native = ((backbone.side, backbone.side), backbone.width)
        self.grid, self.width = backbone.tower_shape if tower else native

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 pictures as the policy prepares them for its tower."""
        check_images(images)
        return self.backbone.shown(images.to(self.backbone.device))

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W) -> (B, N, V)."""
        image = self.preprocess(images)
        values = (self.backbone.tower(image) if self.of_tower else self.backbone.hook.native(image)).float()
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def describe(self) -> dict[str, Any]:
        """Which backbone, and where its vision is read."""
        return {"backbone": self.backbone.identity, "tap": self.tap}

    @property
    def identity(self) -> str:
        """sha256 over the backbone's identity and the tap."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class TokenPlace:
    """Where the tokens of one (source, suite) lie; small, so that any process can open them.

    Attributes:
        folder: of the feature cache.
        identity: of the source.
        own: side of the source's own grid.
        parts: sides that are kept.
        blank: file with the tokens of a black picture.
        seconds: that computing them took here, 0 where they were there already.
    """

    folder: str
    identity: str
    own: int
    parts: tuple[int, ...]
    blank: str
    seconds: float = 0.0

    def asdict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class StoredTokens:
    """Reads tokens of one source: see `TokenPlace`."""

    def __init__(self, place: TokenPlace) -> None:
        self.place, self.cache = place, FeatureCache(place.folder)
        self.width = self.cache.shape[3]
        self.cameras = self.cache.shape[1]
        self._blank = load_file(place.blank)["tokens"]
        self._begin = dict(
            zip(place.parts, np.cumsum([0, *(p * p for p in place.parts)])[:-1].tolist(), strict=True)
        )

    def grid(self, side: int) -> tuple[int, int]:
        """The grid in which tokens for `side` x `side` are kept."""
        part = min(side, self.place.own)
        return part, part

    def read(self, rows: np.ndarray, side: int) -> list[Tensor]:
        """Tokens of frames `rows` (B,), one (B, N, V) per camera, N as `grid(side)` says."""
        return [self._cut(self.cache.gather(rows, camera), side) for camera in range(self.cameras)]

    def blank(self, count: int, side: int) -> list[Tensor]:
        """Tokens of a black picture, in the same form."""
        return [self._cut(self._blank.expand(count, -1, -1), side)] * self.cameras

    def _cut(self, tokens: Tensor, side: int) -> Tensor:
        part = self.grid(side)[0]
        begin = self._begin[part]
        return tokens[:, begin : begin + part * part].float()


def create_encoder_of(name: str) -> VisionEncoder:
    """An encoder by its name in a study: a registry name, with `@tap` where it is to be read elsewhere than usual.

    Non-obvious: `dinov2@224` is a size, and part of the registry's name; taps begin with a letter.
    """
    known, tap = TAP.fullmatch(name), None
    if known is not None:
        name, tap = known.groups()
    return create_vision_encoder(name, tap=tap)


def store_tokens(
    encoder: VisionEncoder,
    frames: FrameSubset,
    sides: Iterable[int],
    folder: Path,
    *,
    root: Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> TokenPlace:
    """Compute what is missing of an encoder's tokens; a killed build goes on.

    Args:
        sides: token grids that will be asked for.
        folder: for the tokens of a black picture.
        root: of the feature cache; default the user's own.

    Raises:
        FoveaError: a grid that is not square, tokens that are not finite, a full disk.
    """
    pooled = PooledEncoder(encoder, sides)
    began = time.monotonic()
    cache = build_features(pooled, frames, root=root, workers=workers, progress=progress)
    seconds = time.monotonic() - began
    blank = folder / f"blank-{pooled.identity[:16]}.safetensors"
    if not blank.is_file():
        size = frames.record.get("render", {}).get("image_size", encoder.image_size)
        with torch.inference_mode():
            black = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=pooled.device)
            tokens = pooled.encode_image(black).values
        with atomic_write(blank) as file:
            file.write(save({"tokens": tokens[0].half().cpu().contiguous()}))
    return TokenPlace(
        str(cache.folder), encoder.identity, pooled.own, tuple(pooled.parts), str(blank), round(seconds, 3)
    )
