"""Where weights come from: a local file, or the Hugging Face hub and its cache."""

from collections.abc import Callable
from pathlib import Path

import httpx
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from fovea.errors import FoveaError


def local_file(name: str, text: str) -> Path:
    """Find the file of "<model>//<file>"; an absolute path may drop its first slash."""
    path = next((p for p in (Path(text), Path("/" + text)) if p.is_file()), None)
    if path is None:
        raise FoveaError(f"expected a weights file after // in {name!r}, found none at {text}")
    if path.suffix != ".safetensors":
        raise FoveaError(
            f"expected a .safetensors file, got {path}; convert it (pickled weights are not loaded)"
        )
    return path


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
