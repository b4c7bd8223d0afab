"""What our policies share behind LeRobot's interface: weights that are loaded whole or not at all, and LoRA's targets.

LeRobot loads with `strict=False` unless told otherwise: a policy with half its weights missing would act, badly. A
policy that has `CheckedWeights` among its bases, before LeRobot's, refuses that in `lerobot-eval` and `lerobot-train`
too.
"""

import math
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fovea.data.files import check_checksums, write_checksums
from fovea.errors import FoveaError

HUB_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only")
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def policy_folder(name_or_path: str | Path, **options: Any) -> Path:
    """The folder of a policy: a local one, or what a model of the hub holds, fetched once.

    Args:
        options: those of LeRobot's `from_pretrained`; the ones that concern the hub are used.

    Raises:
        FoveaError: there is no such folder, and the hub cannot give one of that name.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    wanted = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    try:
        return Path(
            snapshot_download(str(name_or_path), allow_patterns=["*.json", "*.safetensors"], **wanted)
        )
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        raise FoveaError(
            f"expected a policy's folder (with {CONFIG} and {WEIGHTS}) or its name on the Hugging Face hub, "
            f"found neither at {name_or_path} ({type(error).__name__})"
        ) from error


class CheckedWeights:
    """Mixin: `class MyPolicy(CheckedWeights, PreTrainedPolicy)`.

    Saving adds checksums.json. Loading refuses files that differ from it, and missing, unexpected or misshapen weights;
    a folder without checksums.json (saved elsewhere) is only checked for the latter.
    """

    def _save_pretrained(self, save_directory: Path, *args: Any, **kwargs: Any) -> None:
        super()._save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        write_checksums(Path(save_directory), (CONFIG, WEIGHTS))

    @classmethod
    def _load_as_safetensor(cls, model: nn.Module, model_file: str, map_location: str, strict: bool) -> Any:
        check_weights(model, Path(model_file))
        check_checksums(Path(model_file).parent)
        return super()._load_as_safetensor(model, model_file, map_location, strict=True)  # type: ignore[misc]

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """LeRobot's `--peft.method_type=LORA` without `--peft.target_modules`: an adapter on every linear layer."""
        return {"target_modules": "all-linear", "modules_to_save": []}


def check_finite(config: Any) -> None:
    """Refuse NaN and infinity in a configuration's fields, which comparisons let through.

    Raises:
        FoveaError: names the field.
    """
    for name, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise FoveaError(f"expected {name} to be finite, got {value}")


def check_weights(model: nn.Module, file: Path) -> None:
    """Compare the names and shapes of a safetensors file with a model's.

    Raises:
        FoveaError: the file is missing or damaged, or lists every weight that is missing, unexpected or misshapen.
    """
    if not file.is_file():
        raise FoveaError(f"expected weights in {file}, found no such file; is this a policy's folder?")
    try:
        with safe_open(file, framework="pt") as content:
            found = {key: tuple(content.get_slice(key).get_shape()) for key in content.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FoveaError(
            f"{file} is truncated or damaged ({error}); restore it or use another checkpoint"
        ) from error
    state = model.state_dict()
    wanted = {key: tuple(value.shape) for key, value in state.items()}
    held = {_place(value) for key, value in state.items() if key in found}
    problems = [
        *(f"missing {key}" for key in sorted(wanted.keys() - found.keys()) if _place(state[key]) not in held),
        *(f"unexpected {key}" for key in sorted(found.keys() - wanted.keys())),
        *(
            f"{key} has shape {found[key]} instead of {wanted[key]}"
            for key in sorted(wanted.keys() & found.keys())
            if found[key] != wanted[key]
        ),
    ]
    if problems:
        raise FoveaError(
            f"expected {file} to hold exactly the weights that its configuration describes, got:\n  "
            + "\n  ".join(problems)
        )


def _place(value: Tensor) -> tuple[int, tuple[int, ...]]:
    """The same for tied weights (a language model's head and embedding), which a safetensors file holds once."""
    return value.data_ptr(), tuple(value.shape)
