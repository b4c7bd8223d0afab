"""Augmentation of recorded pictures as in Table 6 of EF-VLA: a crop and a change of colours, one draw a view.

A view is a number: 0 is the picture as it was recorded, every other number one draw of crop and colours. The draw is
a pure function of (seed, view, episode, camera) and holds for all frames of an episode: a window that shows several
frames shows one scene in one light through one lens, and only what really moved moves in it. Cached features hold the
views 1..K of every episode; training from pixels draws a new view for every window.

Shapes: n frames, h, w pixels.
"""

import json
import math
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from fovea.data import keys
from fovea.errors import FoveaError

if TYPE_CHECKING:  # flags are read from these settings: no torch for `--help`
    from torch import Tensor

ENDLESS = 2**31 - 1  # number of views when nothing is cached


@dataclass(frozen=True)
class Augmentation:
    """What is drawn.

    Args:
        crop_scale: share of the picture's area that is kept. Not in Table 6; the value of Octo, from which the
            authors' training code descends.
        crop_ratio: width / height of the crop beside the picture's own; the crop is resized to the picture's size.
            (1, 1) in both leaves the geometry alone.
        brightness: factor from 1 - brightness to 1 + brightness.
        contrast, saturation: factors.
        hue: turn of the colour circle, from -hue to hue; 0.5 is half a turn.
        cameras: keys of the cameras that are augmented. The third-person view only, as in OTTER's release: a
            wrist camera that is cropped no longer says where the gripper is.
        seed: of the draws.

    Raises:
        FoveaError: a range is empty or beyond what makes sense.
    """

    crop_scale: tuple[float, float] = (0.8, 1.0)
    crop_ratio: tuple[float, float] = (0.9, 1.1)
    brightness: float = 0.2
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    hue: float = 0.1
    cameras: tuple[str, ...] = (keys.IMAGES[0],)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio", "contrast", "saturation"):
            pair = getattr(self, name)
            smallest = 0.0 if name in ("contrast", "saturation") else 1e-3
            if len(pair) != 2 or not smallest <= pair[0] <= pair[1] < math.inf:
                raise FoveaError(f"{name}: expected two finite factors, the smaller one first, got {pair}")
        if self.crop_scale[1] > 1:
            raise FoveaError(f"crop_scale: expected shares of at most 1, got {self.crop_scale}")
        for name, largest in (("brightness", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= largest:
                raise FoveaError(f"{name}: expected 0 to {largest}, got {getattr(self, name)}")
        if self.seed < 0:
            raise FoveaError(f"seed: expected 0 or more, got {self.seed}")
        if not self.cameras:
            raise FoveaError("cameras: expected at least one to augment; take no views for no augmentation")

    def check_cameras(self, cameras: tuple[str, ...]) -> None:
        """Refuse cameras that a data set does not have.

        Raises:
            FoveaError: names them.
        """
        unknown = sorted(set(self.cameras) - set(cameras))
        if unknown:
            raise FoveaError(
                f"augmentation: expected cameras among {', '.join(cameras)}, got {', '.join(unknown)}"
            )

    def name(self, view: int) -> str:
        """Everything that decides a view's pictures, as one string: part of the key of cached features."""
        settings = {
            k: v for k, v in asdict(self).items() if k != "cameras"
        }  # a cache names its cameras itself
        return json.dumps({"view": view, **settings}, sort_keys=True)

    def apply(self, pictures: "Tensor", *, view: int, episode: int, camera: str) -> "Tensor":
        """One view of some frames of an episode: uint8 (n, 3, h, w) -> uint8 (n, 3, h, w).

        View 0 and cameras that are not augmented come back as they are.
        """
        if view == 0 or camera not in self.cameras:
            return pictures
        from torchvision.transforms.v2 import functional as T

        rng = np.random.default_rng([self.seed, view, episode, zlib.crc32(camera.encode())])
        height, width = pictures.shape[-2:]
        top, left, rows, columns = self._box(rng, height, width)
        if (rows, columns) != (height, width):
            pictures = T.resized_crop(pictures, top, left, rows, columns, [height, width], antialias=True)
        pictures = T.adjust_brightness(pictures, rng.uniform(1 - self.brightness, 1 + self.brightness))
        pictures = T.adjust_contrast(pictures, rng.uniform(*self.contrast))
        pictures = T.adjust_saturation(pictures, rng.uniform(*self.saturation))
        return T.adjust_hue(pictures, rng.uniform(-self.hue, self.hue))

    def _box(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, rows, columns of the crop; a side that would not fit is cut to the picture's."""
        area = rng.uniform(*self.crop_scale)
        ratio = math.exp(rng.uniform(math.log(self.crop_ratio[0]), math.log(self.crop_ratio[1])))
        rows = min(height, max(1, round(height * math.sqrt(area / ratio))))
        columns = min(width, max(1, round(width * math.sqrt(area * ratio))))
        return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns
