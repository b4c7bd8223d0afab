"""Compiled encoders: made once for an encoder's identity, kept in the cache, and found again there.

One folder per key (encoder identity x backend) under $FOVEA_CACHE/openvino:

    picture.xml, picture.bin   OpenVINO's model of the picture tower
    compiled.json              encoder, backend, calibration, versions, SHA-256 of both files; written last

Shapes: K pictures, n frames of an episode, h, w pixels.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fovea.data.dataset import RecordedDataset
from fovea.data.files import cache_root, locked, read_json, sha256_file, write_json
from fovea.encoders.base import Encoder
from fovea.encoders.openvino import OpenVINOEncoder, check_backend, export, require_openvino
from fovea.errors import FoveaError

FORMAT = 1
FILES = ("picture.xml", "picture.bin")


def compiled_folder(encoder: Encoder, backend: str, root: str | Path | None = None) -> Path:
    """Where the compiled copy of an encoder is kept."""
    key = hashlib.sha256(json.dumps([FORMAT, encoder.identity, backend]).encode()).hexdigest()[:40]
    return Path(root or cache_root()) / "openvino" / key


def compiled_encoder(
    encoder: Encoder,
    backend: str,
    *,
    pictures: Tensor | None = None,
    again: bool = False,
    root: str | Path | None = None,
    threads: int | None = None,
) -> Encoder:
    """An encoder on another backend, from the cache; made there if it is missing or damaged.

    Args:
        encoder: the original, on torch; one that is compiled already is given back.
        backend: torch gives the original back too; openvino-fp32; openvino-bf16; openvino-int8.
        pictures: uint8 (K, 3, h, w) to calibrate int8 on, needed only when it is made.
        again: make it anew, from other pictures for example.
        root: folder of all caches, `cache_root()` by default.
        threads: threads it runs with; None takes as many as torch uses.

    Raises:
        FoveaError: the extra is missing, or int8 is not calibrated yet and there are no pictures.
    """
    if check_backend(backend) == "torch" or isinstance(encoder, OpenVINOEncoder):
        return encoder
    require_openvino(backend)
    folder = compiled_folder(encoder, backend, root)
    if again or not _is_sound(folder):
        if backend == "openvino-int8" and pictures is None:
            raise FoveaError(
                f"the int8 copy of {encoder.name} is not made yet: it is calibrated on pictures. Run `fovea compile "
                f"--encoder {encoder.name} --dataset <data set of your robot>` once, or use openvino-bf16 or "
                "openvino-fp32, which need none"
            )
        with locked(folder.with_suffix(".lock")):
            if again or not _is_sound(folder):
                _make(encoder, backend, folder, pictures)
    return OpenVINOEncoder(encoder, folder / FILES[0], backend, threads).freeze()


def calibration_pictures(dataset: RecordedDataset, count: int = 64) -> Tensor:
    """About `count` pictures spread evenly over episodes, time and cameras: uint8 (K, 3, h, w).

    Raises:
        FoveaError: the data set has no cameras, or cameras of different sizes.
    """
    if not dataset.cameras or count < 1:
        raise FoveaError(
            f"expected cameras in {dataset.root} and a count above 0, got {len(dataset.cameras)} cameras and {count}"
        )
    cameras, most = len(dataset.cameras), len(dataset.episodes)
    wanted = min(
        most, max(1, count // (2 * cameras))
    )  # two pictures of an episode and camera, more if need be
    each = math.ceil(count / (wanted * cameras))
    pictures = []
    for place in np.linspace(0, most - 1, wanted).round().astype(int):
        for key in dataset.cameras:
            frames = dataset.frames(dataset.episodes[place].index, key)
            pictures += [frames[int(i)] for i in np.linspace(0, len(frames) - 1, each + 2)[1:-1]]
    if len({picture.shape for picture in pictures}) != 1:
        raise FoveaError(f"expected cameras of one size in {dataset.root}, got several")
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def likeness(
    original: Encoder, copy: Encoder, pictures: Tensor, sentences: Sequence[str]
) -> dict[str, float]:
    """How near a compiled copy is to its original, on pictures it was not calibrated on.

    Args:
        pictures: uint8 (K, 3, h, w).
        sentences: whose words look for their patch in every picture.

    Returns:
        `cosine`: mean of patches; `pointing_agreement`: share of words x pictures with the same arg-max patch;
        `pointing_within_one`: the same or one of its eight neighbours; `ms_original`, `ms`: of one picture.
    """
    values, times = [], []
    for encoder in (original, copy):
        encoder.encode_image(pictures[:1])
        began = time.perf_counter()
        values.append(torch.cat([encoder.encode_image(one[None]).values for one in pictures]))
        times.append(1e3 * (time.perf_counter() - began) / len(pictures))
    words = original.encode_text(sentences)
    each = words.values[words.mask]
    looked = [(each @ patches.transpose(1, 2)).argmax(-1) for patches in values]
    columns = original.grid[1]
    rows_apart = (looked[0] // columns - looked[1] // columns).abs()
    columns_apart = (looked[0] % columns - looked[1] % columns).abs()
    return {
        "cosine": float((values[0] * values[1]).sum(-1).mean()),
        "pointing_agreement": float((looked[0] == looked[1]).float().mean()),
        "pointing_within_one": float((torch.maximum(rows_apart, columns_apart) <= 1).float().mean()),
        "ms_original": round(times[0], 2),
        "ms": round(times[1], 2),
    }


def _make(encoder: Encoder, backend: str, folder: Path, pictures: Tensor | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compiled.json").unlink(missing_ok=True)
    export(encoder, backend, folder / FILES[0], pictures)
    about: dict[str, Any] = {
        "format": FORMAT,
        "encoder": encoder.name,
        "identity": encoder.identity,
        "tap": encoder.tap,
        "backend": backend,
        "versions": {name: version(name) for name in ("openvino", "torch")},
        "sha256": {name: sha256_file(folder / name) for name in FILES},
    }
    if backend == "openvino-int8" and pictures is not None:
        digest = hashlib.sha256(pictures.contiguous().numpy().tobytes()).hexdigest()
        about["calibration"] = {"pictures": list(pictures.shape), "sha256": digest}
        about["versions"]["nncf"] = version("nncf")
    write_json(folder / "compiled.json", about)


def _is_sound(folder: Path) -> bool:
    """Whether both files are there, and as they were written."""
    if not (folder / "compiled.json").is_file():
        return False
    try:
        recorded = read_json(folder / "compiled.json", "record of a compiled encoder")["sha256"]
        return all(
            (folder / name).is_file() and sha256_file(folder / name) == recorded[name] for name in FILES
        )
    except (FoveaError, KeyError, TypeError):  # a damaged record says nothing about the files
        return False
