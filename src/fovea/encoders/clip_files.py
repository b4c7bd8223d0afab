"""Where a CLIP's weights come from: a file or folder of this machine, or the Hugging Face hub."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import httpx
import open_clip
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fovea.encoders.registry import unknown_name
from fovea.errors import FoveaError

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict in single precision; a pickled file is read as tensors and nothing else.

    Raises:
        FoveaError: the file holds no state dict, or something that only unpickling code could read.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise FoveaError(
            f"expected tensors and nothing else in {path}, got {type(error).__name__}; a TorchScript archive "
            "or a pickled model must first be saved as a state dict in safetensors"
        ) from error
    for name in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise FoveaError(f"expected a state dict of tensors in {path}, got {type(state).__name__}")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    prefix = "module." if all(key.startswith("module.") for key in tensors) else ""
    return {
        key.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for key, value in tensors.items()
    }


def local_file(name: str, text: str) -> Path:
    """Find the file of "<model>//<file>", or the weights in "<model>//<folder>".

    An absolute path may drop its first slash.

    Raises:
        FoveaError: nothing there, or nothing that holds weights.
    """
    for path in (Path(text), Path("/" + text)):
        if path.is_file():
            break
        if path.is_dir():
            path = _weights_in(path)
            break
    else:
        raise FoveaError(
            f"expected a weights file after // in {name!r}, or a folder with {HUB_FILES[0]}, found none at {text}"
        )
    if path.suffix not in SUFFIXES:
        raise FoveaError(f"expected a weights file ({', '.join(SUFFIXES)}), got {path}")
    return path


def _weights_in(folder: Path) -> Path:
    known = [folder / file for file in HUB_FILES if (folder / file).is_file()]
    found = known or sorted(folder.glob("*.safetensors"))
    if not found or (not known and len(found) > 1):
        raise FoveaError(
            f"expected {' or '.join(HUB_FILES)} in {folder}, or one safetensors file, found {len(found)}"
        )
    return found[0]


def hub_file(name: str, model: str, tag: str, entry: dict[str, Any]) -> Path:
    """Fetch the weights of an open_clip tag, or say which file is wanted and where it lives.

    Raises:
        FoveaError: the tag is unknown, or its weights are not here and cannot be downloaded.
    """
    if not entry:
        raise FoveaError(unknown_name(f"tag of {model}", tag, open_clip.list_pretrained_tags_by_model(model)))
    quick = "-quickgelu" if entry.get("quick_gelu") and not model.endswith("-quickgelu") else ""
    repository, _, file = entry.get("hf_hub", "").rpartition("/")
    if not repository:
        raise FoveaError(
            f"the weights of {name} are not on the Hugging Face hub but at {entry.get('url')}: download that "
            f"file and use the encoder {model}{quick}//<its path>"
        )
    files = (str(Path(file).with_suffix(".safetensors")), file) if file else HUB_FILES
    wanted: dict[str, Exception] = {}
    for candidate in dict.fromkeys(files):
        try:
            return Path(hf_hub_download(repository, candidate))
        except (OSError, HfHubHTTPError, httpx.HTTPError, EntryNotFoundError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue  # the hub was asked, and has no such file: some repositories hold no safetensors
            wanted[candidate] = error
    if not wanted:
        raise FoveaError(
            f"expected {' or '.join(files)} in https://huggingface.co/{repository}, found neither"
        )
    candidate, reason = next(iter(wanted.items()))
    raise FoveaError(
        f"the weights of {name} are not on this machine and cannot be downloaded: {candidate} of "
        f"https://huggingface.co/{repository} is wanted. With a copy of that file, use the encoder "
        f"{model}{quick}//<path of {candidate}>. ({type(reason).__name__})"
    ) from reason
