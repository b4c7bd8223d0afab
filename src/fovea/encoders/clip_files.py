"""Where a CLIP's weights come from: a file or folder of this machine, or the Hugging Face hub."""

from pathlib import Path
from typing import Any

import httpx
import open_clip
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from fovea.encoders.registry import unknown_name
from fovea.errors import FoveaError

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def unknown_tag(model: str, tag: str) -> FoveaError:
    """That open_clip knows no such weights of a model, with the nearest it knows."""
    return FoveaError(unknown_name(f"tag of {model}", tag, open_clip.list_pretrained_tags_by_model(model)))


def hub_file(name: str, model: str, tag: str, entry: dict[str, Any]) -> Path:
    """Fetch the weights of an open_clip tag, or say which file is wanted and where it lives.

    Raises:
        FoveaError: the tag is unknown, or its weights are not here and cannot be downloaded.
    """
    if not entry:
        raise unknown_tag(model, tag)
    repository, _, file = entry.get("hf_hub", "").rpartition("/")
    if not repository:
        raise FoveaError(
            f"the weights of {name} are not on the Hugging Face hub but at {entry.get('url')}: download that "
            f"file and use the encoder {model}/{tag}//<its path>"
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
        f"{model}/{tag}//<path of {candidate}>. ({type(reason).__name__})"
    ) from reason
