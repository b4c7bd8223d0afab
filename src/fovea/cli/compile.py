"""`fovea compile`: a fast copy of an encoder's picture tower (OpenVINO: fp32, bfloat16 or int8), and how near it is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fovea.errors import FoveaError


@dataclass
class Config:
    """Which encoder, and what it is calibrated on.

    Attributes:
        encoder: tiny, tiny:FOLDER, ViT-B-32/openai, or what else `fovea train --policy.encoder` takes.
        dataset: folder of a LeRobot data set of your robot: int8 is calibrated on some of its pictures, and compared
            with the original on others.
        tap: where patches are read; the encoder's own when not given.
        backend: openvino-int8, openvino-bf16 or openvino-fp32.
        pictures: how many to calibrate on, and how many to compare on.
        again: make it anew though it is there.
        json: print the numbers as JSON.
    """

    encoder: str = "tiny"
    dataset: Path | None = None
    tap: str | None = None
    backend: Literal["openvino-int8", "openvino-bf16", "openvino-fp32"] = "openvino-int8"
    pictures: int = 64
    again: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise FoveaError(f"pictures: expected at least 1, got {self.pictures}")
        if self.backend == "openvino-int8" and self.dataset is None:
            raise FoveaError("needs --dataset: int8 is calibrated on what your robot's cameras show")


def run(config: Config) -> None:
    """Make the copy where it is missing, and say how near it is."""
    from fovea.data.compiled import calibration_pictures, compiled_encoder, compiled_folder, likeness
    from fovea.data.dataset import open_dataset
    from fovea.encoders import create_encoder
    from fovea.encoders.openvino import require_openvino

    require_openvino(config.backend)
    dataset = None if config.dataset is None else open_dataset(config.dataset)
    encoder = create_encoder(config.encoder, tap=config.tap)
    pictures = None if dataset is None else calibration_pictures(dataset, 2 * config.pictures)
    calibration = None if pictures is None else pictures[::2]
    copy = compiled_encoder(encoder, config.backend, pictures=calibration, again=config.again)
    folder = compiled_folder(encoder, config.backend)
    found: dict[str, object] = {"folder": str(folder), "identity": copy.identity}
    if dataset is not None and pictures is not None and len(pictures) > 1:
        sentences = list(dict.fromkeys(episode.task for episode in dataset.episodes))
        found |= likeness(encoder, copy, pictures[1::2], sentences)
    if config.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{encoder.name} on {config.backend}: {folder}")
    if "pointing_agreement" in found:
        print(
            f"on {len(pictures[1::2]) if pictures is not None else 0} other pictures: mean cosine of patches "
            f"{found['cosine']:.4f}, the same arg-max patch for {found['pointing_agreement']:.1%} of the words, within "
            f"one patch for {found['pointing_within_one']:.1%}; {found['ms_original']:.1f} ms a picture on torch, "
            f"{found['ms']:.1f} ms compiled"
        )
    print(f"use it: fovea eval --checkpoint ... --encoder_backend {config.backend}")
