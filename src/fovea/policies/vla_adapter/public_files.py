"""VLA-Adapter's public checkpoints as files: weights of the policy, what the file says of itself, scaling."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor

from fovea.data.files import read_json
from fovea.encoders.files import SUFFIXES, check_weight, read_weights
from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import ACTION, STATE
from fovea.policies.vlm_policy.configuration import Gripper

HEAD, PROPRIO = "action_head.model.", "proprio_projector."
STATISTICS = "dataset_statistics.json"


@dataclass(frozen=True)
class PublicCheckpoint:
    """What was found.

    Attributes:
        weights: `action_head.model.*` and `proprio_projector.*`.
        samples: `in.*` and `out.*`: inputs and what the release makes of them, where a file carries them.
        chunk_size, n_heads: what the file says of itself, in its metadata or its samples.
    """

    weights: dict[str, Tensor]
    samples: dict[str, Tensor]
    chunk_size: int | None = None
    n_heads: int | None = None


def read_public(source: Path) -> PublicCheckpoint:
    """Read a file, or the two files of a checkpoint folder.

    Raises:
        FoveaError: files that are not there, too many, or no plain tensors.
    """
    if source.is_dir():
        weights: dict[str, Tensor] = {}
        for part in ("action_head", "proprio_projector"):
            files = [file for suffix in SUFFIXES for file in sorted(source.glob(f"{part}--*{suffix}"))]
            if len(files) != 1:
                raise FoveaError(
                    f"expected one {part}--*.pt (or .safetensors) in {source}, found {len(files)}; "
                    "is this a checkpoint of VLA-Adapter, and of one training step only?"
                )
            found = read_weights(files[0]).items()
            weights |= {f"{part}.{key.removeprefix(f'{part}.')}": value for key, value in found}
        return PublicCheckpoint(_ours(weights), {})
    if not source.is_file() or source.suffix not in SUFFIXES:
        raise FoveaError(
            f"expected VLA-Adapter's weights in a folder or a file ({', '.join(SUFFIXES)}), got {source}"
        )
    tensors = read_weights(source)
    samples = {key: value for key, value in tensors.items() if key.startswith(("in.", "out."))}
    chunk, heads = _metadata(source, r"chunk\w*"), _metadata(source, r"\w*heads")
    told = next(
        (samples[key] for key in samples if key == "in.latent" or key.startswith("out.actions")), None
    )
    if told is not None:
        chunk = told.shape[1]
    weights = {key.removeprefix("weights."): value for key, value in tensors.items()}
    return PublicCheckpoint(_ours(weights), samples, chunk, heads)


def _ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {key: value for key, value in weights.items() if key.startswith((HEAD, PROPRIO))}
    for key, value in ours.items():
        check_weight(key, value, "VLA-Adapter's")
    return ours


def _metadata(source: Path, name: str) -> int | None:
    """A number that a safetensors file tells of itself, as in "heads=8"."""
    if source.suffix != ".safetensors":
        return None
    with safe_open(source, framework="pt") as file:
        text = " ".join(f"{key}={value}" for key, value in (file.metadata() or {}).items())
    found = re.search(rf"\b{name}\"?\s*[=:]\s*(\d+)", text)
    return int(found.group(1)) if found else None


def read_statistics(
    source: Path, name: str | None, proprio_size: int, action_size: int
) -> tuple[dict[str, dict[str, Any]] | None, Gripper]:
    """q01 and q99 of states and actions, as OpenVLA and its heirs save them (None without the file), and what their
    mask says of the last action: not scaled, a gripper between 0 and 1; or scaled like the others.

    Args:
        source: the checkpoint, a folder or a file beside dataset_statistics.json.
        name: which data set of it; None where there is only one.

    Raises:
        FoveaError: no such data set, or other sizes than the weights have.
    """
    file = (source if source.is_dir() else source.parent) / STATISTICS
    if not file.is_file():
        return None, "one_is_open"
    found = read_json(file, "statistics")
    if not isinstance(found, dict) or not all(
        isinstance(column, dict) for its in found.values() for column in (its, *_columns(its))
    ):
        raise FoveaError(f"expected data sets with proprio and action in {file}, got {str(found)[:80]}")
    if name is None and len(found) != 1:
        raise FoveaError(f"expected --statistics among {', '.join(found)}: {file} holds several data sets")
    name = name or next(iter(found))
    if name not in found:
        raise FoveaError(f"expected --statistics among {', '.join(found)}, got {name!r}")
    stats: dict[str, dict[str, Any]] = {}
    sizes = {"proprio": (STATE, proprio_size), "action": (ACTION, action_size)}
    for theirs, (ours, size) in sizes.items():
        try:
            column = {
                edge: np.asarray(found[name].get(theirs, {}).get(edge, ()), np.float32)
                for edge in ("q01", "q99")
            }
        except (TypeError, ValueError) as error:
            raise FoveaError(
                f"expected numbers in q01 and q99 of {name}.{theirs} in {file}: {error}"
            ) from error
        if any(value.shape != (size,) or not np.isfinite(value).all() for value in column.values()):
            raise FoveaError(
                f"expected {size} finite numbers in q01 and q99 of {name}.{theirs} in {file}, got "
                f"{[value.shape for value in column.values()]}"
            )
        stats[ours] = column
    mask = found[name]["action"].get("mask", [True] * (action_size - 1) + [False])
    grippers: dict[tuple[bool, ...], Gripper] = {
        (True,) * (action_size - 1) + (False,): "one_is_open",
        (True,) * action_size: "as_is",
    }
    if not isinstance(mask, list) or tuple(mask) not in grippers:
        raise FoveaError(
            f"expected the mask of {name}.action in {file} to leave out the last action or none, got {mask}"
        )
    return stats, grippers[tuple(mask)]


def _columns(its: Any) -> list[Any]:
    return [its[name] for name in ("proprio", "action") if name in its] if isinstance(its, dict) else []
