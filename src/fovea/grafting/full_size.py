"""The full-size backbones without their weights: shapes and dtypes on the meta device, where tensors take no memory."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch

from fovea.data import keys
from fovea.grafting.backbones import Backbone, Pi05Backbone, SmolVLABackbone
from fovea.grafting.native import SIZES, build_smolvla, smolvla_config, write_vlm

SMOLVLA = "smolvla-450m"


def meta_smolvla(folder: Path) -> Backbone:
    """SmolVLA-450M on the meta device.

    Args:
        folder: for the few files that stand for its vision-language model.
    """
    config = smolvla_config(SIZES[SMOLVLA], write_vlm(folder, SIZES[SMOLVLA], ["pick up the bowl"]))
    with torch.device("meta"):
        policy = build_smolvla(config)
    return SmolVLABackbone(SMOLVLA, policy, None, None, identity="meta")


def meta_pi05(dtype: str = "bfloat16") -> Backbone:
    """pi0.5 on the meta device, in the precision that it is released in."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.pi05.configuration_pi05 import PI05Config
    from lerobot.policies.pi05.modeling_pi05 import PI05Policy

    config = PI05Config(dtype=dtype, device="cpu", push_to_hub=False)
    config.device = "meta"
    config.input_features = {
        **{key: PolicyFeature(FeatureType.VISUAL, (3, 224, 224)) for key in keys.IMAGES},
        keys.STATE: PolicyFeature(FeatureType.STATE, (8,)),
    }
    config.output_features = {keys.ACTION: PolicyFeature(FeatureType.ACTION, (7,))}
    with torch.device("meta"), contextlib.redirect_stdout(sys.stderr):
        policy = PI05Policy(config)
    return Pi05Backbone("pi05", policy, None, None, identity="meta")


def describe(backbone: Backbone) -> dict[str, Any]:
    """Parameters, and what a graft has to deliver: tokens of a camera, width, dtype, as the own connector gives them.

    Non-obvious: SmolVLM's tower counts its patches, which the meta device cannot; its connector is asked.
    """
    (rows, columns), tower = backbone.tower_shape
    dtype = next(backbone.policy.parameters()).dtype if backbone.kind == "smolvla" else torch.float32
    native = backbone.connect(torch.zeros(1, rows * columns, tower, device=backbone.device, dtype=dtype))
    return {
        "name": backbone.name,
        "parameters": sum(p.numel() for p in backbone.policy.parameters()),
        "picture": list(backbone.image_size),
        "tokens": native.shape[1],
        "width": native.shape[2],
        "language_dtype": str(backbone.dtype).removeprefix("torch."),
    }
