"""Vision transformers of timm as encoders that only see: DINOv2, SigLIP and every other plain ViT by its name.

Shape letters: B batch, N patches (row-major), D width, S side of the square picture in pixels.
"""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from fovea.encoders.base import VisionEncoder, check_tap, normalise_pixels
from fovea.encoders.files import fetch, local_file, read_weights
from fovea.encoders.registry import unknown_name
from fovea.errors import FoveaError
from fovea.tokens import Tokens

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
VIT_TAPS = ("penultimate", "out")
_NAME = re.compile(r"(?P<model>[^@/]+)(?:@(?P<size>\d+))?(?://(?P<file>.+))?")


class VitEncoder(VisionEncoder):
    """A vision transformer of timm; class and register tokens are dropped, patches are not normalised.

    Pictures are squashed to the square that the network takes, not cropped.

    Args:
        model: timm's network, without classifier.
        name: registry name.
        tap: `penultimate`: output of the second-to-last block, as Prismatic, OpenVLA and VLA-Adapter read it;
            `out`: output of the last block after the final norm.
        mean, std: of the pixels, in [0, 1].
        interpolation: of the resize, `bicubic` or `bilinear`, antialiased.

    Raises:
        FoveaError: the network has no row of blocks to read from (convolutional, hierarchical), or its patches do
            not divide the picture.
    """

    model: Any  # timm's, whose attributes torch's stubs cannot see

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        tap: str | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        parts = ("blocks", "forward_intermediates", "num_prefix_tokens")
        blocks: Any = getattr(model, "blocks", ())
        if grid is None or not all(hasattr(model, part) for part in parts) or len(blocks) < 2:
            raise FoveaError(
                f"expected a plain vision transformer, got {name} ({type(model).__name__}); "
                "take one such as timm/vit_small_patch14_dinov2.lvd142m"
            )
        self.model = model
        self.name, self.tap = name, check_tap(tap or VIT_TAPS[0], VIT_TAPS)
        self.grid = (int(grid[0]), int(grid[1]))
        self.image_size = int(self.model.patch_embed.img_size[0])
        patch = int(getattr(model.patch_embed, "patch_size", (self.image_size // max(1, self.grid[0]),))[0])
        if self.grid[0] != self.grid[1] or self.grid[0] < 1 or self.image_size % patch:
            raise FoveaError(
                f"expected a square picture that patches of {patch} px divide, got {self.image_size} px for {name}; "
                f"ask for @{patch * max(1, self.grid[0])}"
            )
        self.width = int(self.model.embed_dim)
        self.mean, self.std = tuple(mean), tuple(std)
        self.interpolation = interpolation if interpolation in ("bicubic", "bilinear") else "bicubic"

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> normalised float (B, 3, S, S)."""
        dtype = self.model.patch_embed.proj.weight.dtype
        return normalise_pixels(images, self.image_size, self.mean, self.std, self.interpolation).to(dtype)

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W), upright RGB -> patches at `tap`, values (B, N, D)."""
        values = self.patches(self.preprocess(images))
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def patches(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels (B, 3, S, S) -> patches at `tap` (B, N, D); blocks behind the tap do not run."""
        penultimate = self.tap == "penultimate"
        (values,) = self.model.forward_intermediates(
            pixels,
            indices=[len(self.model.blocks) - (2 if penultimate else 1)],
            norm=not penultimate,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return values

    def describe(self) -> dict[str, Any]:
        """Everything but the weights that changes features."""
        act = type(getattr(self.model.blocks[0].mlp, "act", None)).__name__
        # one file of weights serves networks with and without QuickGELU
        activation = {} if act in ("GELU", "NoneType") else {"activation": act}
        return activation | {
            "image_size": self.image_size,
            "resize": f"{self.interpolation}, antialiased, squashed",
            "mean": self.mean,
            "std": self.std,
            "heads": [block.attn.num_heads for block in self.model.blocks],
            "prefix": self.model.num_prefix_tokens,
        }


def create_timm(name: str, *, tap: str | None = None, random_weights: bool = False) -> VitEncoder:
    """Build "timm/<model>", "timm/<model>@<size>" or either followed by "//<file>".

    Without a size the network keeps its own (518 px for DINOv2: 1369 patches). Without a file the weights come from
    the Hugging Face hub or its cache.

    Args:
        name: registry name; the model is timm's, with its tag ("vit_small_patch14_dinov2.lvd142m").
        tap: see `VitEncoder`.
        random_weights: leave the network as it was initialised, on purpose: features mean nothing.

    Raises:
        FoveaError: unknown model or tag, weights not there, or weights that do not fit.
    """
    return build_vit(name, name.removeprefix("timm/"), tap=tap, random_weights=random_weights)


def build_vit(
    name: str, text: str, *, tap: str | None = None, random_weights: bool = False, size: int | None = None
) -> VitEncoder:
    """Build the encoder called `name` from `text`, "<model>[@<size>][//<file>]"; `size`: where text has none."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise FoveaError(f"expected timm/<model>, with @<size> and //<file> if wanted, got {name!r}")
    model_name, side = match["model"], int(match["size"]) if match["size"] else size
    config = pretrained_config(model_name)
    # The file is looked for before a large network is built for nothing.
    path = None if random_weights else _weights(name, model_name, side, match["file"], config)
    arguments: dict[str, Any] = {} if side is None else {"img_size": side}
    try:
        model = timm.create_model(model_name, pretrained=False, num_classes=0, **arguments)
    except (TypeError, AssertionError, ValueError, ZeroDivisionError) as error:
        raise FoveaError(f"timm's {model_name} does not take pictures of {side} px: {error}") from error
    encoder = VitEncoder(
        model, name=name, tap=tap, mean=config.mean, std=config.std, interpolation=config.interpolation
    )
    if path is not None:
        load_vit(model, path, model_name)
    return encoder


def pretrained_config(model: str) -> PretrainedCfg:
    """What timm knows about a model: preprocessing and where its weights are.

    Raises:
        FoveaError: no such model or tag.
    """
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise FoveaError(unknown_name("timm model", architecture, timm.list_models()))
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise FoveaError(unknown_name(f"tag of {architecture}", tag, tags or ["no tag at all"]))
    config = timm.get_pretrained_cfg(model)
    if config is None:
        raise FoveaError(f"timm knows no preprocessing of {model}; take a model with a tag")
    return config


def load_vit(model: nn.Module, path: Path, name: str) -> None:
    """Load a file of timm's layout strictly, positions resampled to the picture's size.

    A classifier in the file is ignored: the encoder has none.

    Raises:
        FoveaError: keys are missing or unexpected, or shapes differ.
    """
    state = read_weights(path)
    try:
        filtered = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
        if filtered is not None:
            state = filtered(state, model)
        state = {key: value for key, value in state.items() if not key.startswith(("head.", "head_dist."))}
        model.load_state_dict(state, strict=True)
    except (RuntimeError, KeyError) as error:
        raise FoveaError(f"{path} does not hold the weights of timm's {name}: {error}") from error


def _weights(name: str, model: str, side: int | None, file: str | None, config: PretrainedCfg) -> Path:
    if file is not None:
        return local_file(name, file, HUB_FILES)
    spelled = f"timm/{model}" + (f"@{side}" if side else "")
    if not config.hf_hub_id:
        raise FoveaError(
            f"timm has no weights of {model}; name a tag, or give a local file as {spelled}//<file>"
        )
    return fetch(
        f"the weights of {name} (timm {model})",
        config.hf_hub_id,
        HUB_FILES[0],
        f"use the encoder {spelled}//<path of {HUB_FILES[0]}>",
    )
