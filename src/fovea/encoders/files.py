"""Where weights come from: a local file, or the Hugging Face hub and its cache."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file
from torch import Tensor

from fovea.errors import FoveaError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# what a policy's folder holds; others' weights may be called so too
WRITTEN = ("model.safetensors", "clip.safetensors")


def read_weights(path: Path, *, as_stored: bool = False) -> dict[str, Tensor]:
    """A state dict in single precision, or `as_stored`; a pickled file is read as tensors and nothing else.

    Raises:
        FoveaError: the file holds no state dict, or something that only unpickling code could read.
    """
    state = load_tensors(path)
    for name in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise FoveaError(f"expected a state dict of tensors in {path}, got {type(state).__name__}")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    prefix = "module." if all(key.startswith("module.") for key in tensors) else ""
    state = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return state if as_stored else in_single_precision(state)


def in_single_precision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose floating-point numbers have 32 bits; whole numbers stay what they are."""
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def check_weight(key: str, value: Tensor, whose: str) -> None:
    """Refuse a tensor that cannot be a weight of a network.

    Args:
        whose: weights, for the message, such as "OTTER's".

    Raises:
        FoveaError: whole or complex numbers, NaN or infinity.
    """
    if not value.is_floating_point():
        raise FoveaError(
            f"expected {key} of {whose} weights as floating-point numbers, got {value.dtype}; export them unquantised"
        )
    if not value.isfinite().all():
        raise FoveaError(
            f"expected finite numbers in {key} of {whose} weights, got NaN or infinity; did an export to half "
            "precision overflow?"
        )


def refuse_overwriting(source: Path, target: Path) -> None:
    """Refuse to write a policy where it would replace what it is converted from.

    Args:
        source: a file of weights, or a checkpoint's folder.
        target: the folder that will hold the policy.

    Raises:
        FoveaError: it would.
    """
    source, folder = source.resolve(), target.resolve()
    if folder == source or source in {folder / name for name in WRITTEN}:
        raise FoveaError(
            f"expected another folder for the policy than {target}, where it would overwrite what it is made from: "
            f"{source.name}"
        )


def load_tensors(path: Path) -> Any:
    """What a file of tensors holds, nested or not; torch's restricted unpickler reads nothing else.

    Raises:
        FoveaError: the file is damaged, or holds something that only unpickling code could read.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # damaged pickles fail in every way that there is
        raise FoveaError(
            f"expected tensors and nothing else in {path}, got {type(error).__name__}; a TorchScript archive "
            "or a pickled model must first be saved as a state dict in safetensors"
        ) from error


def local_file(name: str, text: str, known: Sequence[str]) -> Path:
    """Find the file of "<model>//<file>", or the weights in "<model>//<folder>".

    An absolute path may drop its first slash.

    Args:
        name: the encoder's whole name, for messages.
        text: what stands behind the two slashes.
        known: what weights are called in a folder, best first; else the only safetensors file there is taken.

    Raises:
        FoveaError: nothing there, or nothing that holds weights.
    """
    for path in (Path(text), Path("/" + text)):
        if path.is_file():
            break
        if path.is_dir():
            path = _weights_in(path, known)
            break
    else:
        raise FoveaError(
            f"expected a weights file after // in {name!r}, or a folder with {known[0]}, found none at {text}"
        )
    if path.suffix not in SUFFIXES:
        raise FoveaError(f"expected a weights file ({', '.join(SUFFIXES)}), got {path}")
    return path


def _weights_in(folder: Path, known: Sequence[str]) -> Path:
    named = [folder / file for file in known if (folder / file).is_file()]
    found = named or sorted(folder.glob("*.safetensors"))
    if not found or (not named and len(found) > 1):
        raise FoveaError(
            f"expected {' or '.join(known)} in {folder}, or one safetensors file, found {len(found)}"
        )
    return found[0]


def fetch(
    what: str, repository: str, file: str, advice: str, download: Callable[[str, str], str] = hf_hub_download
) -> Path:
    """Fetch a file of a Hugging Face repository, or say which one is wanted and where it lives.

    Args:
        what: what the file is part of, for the message.
        advice: what to do with a copy of the file.

    Raises:
        FoveaError: it is not in the cache and cannot be downloaded.
    """
    try:
        return Path(download(repository, file))
    except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
        raise FoveaError(
            f"{what} are not on this machine and cannot be downloaded: {file} of "
            f"https://huggingface.co/{repository} is wanted. With a copy of that file, {advice}. "
            f"({type(error).__name__})"
        ) from error
