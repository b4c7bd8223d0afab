"""Backbones by name: released checkpoints, and folders on this machine."""

import contextlib
import hashlib
import sys
from pathlib import Path
from typing import Any

import torch

from fovea.data import keys
from fovea.data.files import sha256_file
from fovea.errors import FoveaError
from fovea.grafting.backbones import KINDS, Backbone
from fovea.grafting.hooks import OWNERS
from fovea.grafting.native import VLM
from fovea.nn.onednn import use_onednn
from fovea.sim.suites import suggest

RELEASED = {
    "smolvla": "lerobot/smolvla_base",
    "smolvla-libero": "HuggingFaceVLA/smolvla_libero",
    "pi05": "lerobot/pi05_base",
    "pi05-libero": "lerobot/pi05_libero_finetuned",
}
WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "policy_preprocessor.json"
NAMES = (CONFIG, WEIGHTS, PROCESSOR, "policy_postprocessor.json")
WORDS_FILES = (".json", ".txt", ".model", ".jinja")  # of a tokenizer, with the configuration beside it


def checkpoint_folder(name: str, root: Path | None = None) -> Path:
    """The folder of a backbone: a path, a name under `root` (backbones that were trained here), or a released one.

    Args:
        name: "outputs/run/checkpoints/last", "smolvla-small" (under `root`), "smolvla-libero", "owner/repository".

    Raises:
        FoveaError: no such folder, an unknown name, or a released checkpoint that is neither here nor to be had.
    """
    for place in (Path(name), *([root / name] if root else [])):
        if (folder := checkpoint_in(place)) is not None:
            return folder
    repository = RELEASED.get(name, name)
    if repository.count("/") != 1 or Path(name).exists() or name.startswith((".", "/")):
        trained = f", a backbone under {root}" if root else ""
        raise FoveaError(
            f"found no checkpoint ({CONFIG} and {WEIGHTS}) for the backbone {name!r}. Expected its folder{trained}, or "
            f"one of {', '.join(RELEASED)}. {suggest(name, RELEASED)} `fovea reproduce graft` trains two small ones"
        )
    return _download(name, repository)


def checkpoint_in(place: Path) -> Path | None:
    """The folder with configuration and weights: a place itself, or where a training keeps its last ones."""
    last = place / "checkpoints" / "last" / "pretrained_model"
    for folder in (place, place / "pretrained_model", last):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    return None


def _download(name: str, repository: str) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        raise FoveaError(
            f"the backbone {name} is not on this machine and cannot be downloaded: "
            f"https://huggingface.co/{repository} is wanted ({type(error).__name__}). With a copy of that repository, "
            "give its folder as the backbone"
        ) from error
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise FoveaError(
            f"expected {CONFIG} and {WEIGHTS} in {repository}, found them not; is it a LeRobot policy?"
        )
    return folder


def backbone_config(folder: Path) -> Any:
    """LeRobot's configuration of the backbone in a folder.

    Raises:
        FoveaError: it cannot be read, or is no SmolVLA or pi0.5.
    """
    from draccus.utils import DraccusException
    from lerobot.configs import PreTrainedConfig

    try:
        config: Any = PreTrainedConfig.from_pretrained(folder)
    except (ValueError, DraccusException) as error:
        raise FoveaError(f"LeRobot cannot read {folder / CONFIG}: {error}") from error
    if config.type not in OWNERS:
        raise FoveaError(f"expected a policy of type {' or '.join(OWNERS)} in {folder}, got {config.type!r}")
    return config


def load_backbone(
    name: str, *, root: Path | None = None, device: str = "cpu", tokenizer: str | None = None
) -> Backbone:
    """Load a checkpoint of LeRobot's SmolVLA or pi0.5, frozen.

    Args:
        name: see `checkpoint_folder`.
        root: where backbones lie that were trained here.
        tokenizer: folder (or name) of the tokenizer, if it is not the one that the checkpoint names. A folder `vlm`
            in or above the checkpoint is found by itself.

    Raises:
        FoveaError: the checkpoint is missing, of another policy, incomplete, or needs files that are not here.
    """
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from safetensors import SafetensorError

    folder = checkpoint_folder(name, root)
    config = backbone_config(folder)
    config.device = device
    vlm = tokenizer or _nearby_vlm(folder)
    if config.type == "smolvla":
        config.load_vlm_weights = False  # they are part of the checkpoint
        config.vlm_model_name = vlm or config.vlm_model_name
    try:
        with contextlib.redirect_stdout(sys.stderr):  # LeRobot says there that it loads
            policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
        overrides: dict[str, Any] = {"device_processor": {"device": device}}
        if vlm:
            overrides["tokenizer_processor"] = {"tokenizer_name": vlm}
        saved = (folder / PROCESSOR).is_file()
        before, after = make_pre_post_processors(
            config, pretrained_path=str(folder) if saved else None, preprocessor_overrides=overrides
        )
    except (RuntimeError, ValueError, KeyError, ImportError, OSError, SafetensorError) as error:
        raise FoveaError(
            f"LeRobot cannot load the {config.type} backbone in {folder}: {error}. If it is the tokenizer or the "
            f"vision-language model's configuration that is missing, put their files into {folder / VLM}"
        ) from error
    check_weights(policy, folder / WEIGHTS)
    use_onednn(policy)
    kind = KINDS[config.type]
    own = saved and _has_statistics(before)
    return kind(name, policy, before, after, identity=_identity(folder, vlm), own_statistics=own)


def use_data_statistics(backbone: Backbone, stats: dict[str, dict[str, torch.Tensor]]) -> None:
    """Normalise with a data set's statistics, for a checkpoint that brings none (a base model)."""
    flat = {f"{key}.{name}": value for key, own in stats.items() for name, value in own.items()}
    for pipeline in (backbone.before, backbone.after):
        for step in pipeline.steps:
            if hasattr(step, "stats"):
                step.load_state_dict(flat)


def check_weights(policy: torch.nn.Module, path: Path) -> None:
    """See that a policy holds the weights of a file: LeRobot's pi0.5 goes on with random ones if it cannot read them.

    Raises:
        FoveaError: a weight of the file is not in the policy as it stands there.
    """
    from safetensors import safe_open

    state = policy.state_dict()
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name in sorted(names):
            own = state.get(name, state.get(f"model.{name}"))
            if own is None or tuple(own.shape) != tuple(file.get_slice(name).get_shape()):
                raise FoveaError(
                    f"{path}: the weight {name} does not fit the policy; is it of another LeRobot version?"
                )
        for name in sorted(names)[:: max(1, len(names) // 8)]:
            own = state.get(name, state.get(f"model.{name}"))
            assert own is not None
            if not torch.equal(file.get_tensor(name).to(own.dtype), own.cpu()):
                raise FoveaError(
                    f"{path}: LeRobot did not load the weight {name}; look at its messages above"
                )


def _has_statistics(before: Any) -> bool:
    """Whether a loaded preprocessor knows how actions are distributed."""
    steps = getattr(before, "steps", ())
    return any(keys.ACTION in (getattr(step, "stats", None) or {}) for step in steps)


def _nearby_vlm(folder: Path) -> str | None:
    for place in (folder, *folder.absolute().parents[:4]):
        if (place / VLM / CONFIG).is_file():
            return str(place / VLM)
    return None


def _identity(folder: Path, vlm: str | None) -> str:
    """Of the checkpoint's files, and of the tokenizer and language model's configuration that it is given."""
    files = [folder / name for name in NAMES if (folder / name).is_file()]
    files += sorted(folder.glob("policy_*processor_step*.safetensors"))
    parts = [sha256_file(path)[:8] for path in files]
    if vlm is not None:
        known = sorted(path for path in Path(vlm).glob("*") if path.suffix in WORDS_FILES and path.is_file())
        told = [f"{path.name} {sha256_file(path)}" for path in known] or [vlm]  # a name on the hub
        parts.append(hashlib.sha256("\n".join(told).encode()).hexdigest()[:8])
    return "-".join(parts)
