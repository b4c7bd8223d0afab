"""Checkpoints in LeRobot's layout, written whole or not at all.

    checkpoints/000500/pretrained_model/   config.json, model.safetensors (averaged weights), both processors
    checkpoints/000500/training_state/     state.safetensors (weights, average, optimiser), state.json
    checkpoints/last -> 000500

`pretrained_model` is what LeRobot's `from_pretrained` and `lerobot-eval` read. Only the last checkpoint keeps its
training state: it is three times the size of the model and only good for going on.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fovea.data.files import check_checksums, flat, full_disk_named, read_json, write_checksums, write_json
from fovea.errors import FoveaError
from fovea.training.ema import WeightAverage, check_like

CHECKPOINTS, LAST = "checkpoints", "last"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW keeps for every parameter that had a gradient
MODEL, STATE = "pretrained_model", "training_state"
_REMEDY = "delete {folder} and point checkpoints/last elsewhere, or start anew in another folder"


@dataclass
class TrainingState:
    """All that changes while a policy trains; saved and restored as one."""

    policy: PreTrainedPolicy
    optimizer: torch.optim.Optimizer
    average: WeightAverage

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name: weights.*, average.*, optimizer.<moment>.*; copies that share no memory."""
        named = {f"weights.{name}": value for name, value in self.policy.state_dict().items()}
        named |= {f"average.{name}": value for name, value in self.average.values.items()}
        for name, parameter in self.policy.named_parameters():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                named[f"optimizer.{moment}.{name}"] = torch.as_tensor(value)
        return {name: value.detach().cpu().clone().contiguous() for name, value in named.items()}

    def checkpoint_bytes(self) -> int:
        """About how much of the disk one checkpoint takes, before the optimiser has made its two moments."""
        trained = sum(value.nbytes for value in self.average.values.values())
        return 2 * sum(value.nbytes for value in self.policy.state_dict().values()) + 3 * trained

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave.

        Raises:
            RuntimeError, KeyError, ValueError: if the tensors are of another policy, or not all of one.
        """
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        self.policy.load_state_dict(parts["weights"], strict=True)
        self.average.load(parts["average"])
        parameters = dict(self.policy.named_parameters())
        moments: dict[str, dict[str, Tensor]] = {moment: {} for moment in MOMENTS}
        for name, value in parts["optimizer"].items():
            moment, parameter_name = name.split(".", 1)
            moments[moment][parameter_name] = value
        moved = {name: parameters[name].detach() for name in moments[MOMENTS[0]]}
        if not moved:
            raise RuntimeError("the optimiser's moments are missing")
        for moment, values in moments.items():
            check_like(
                moment, values, moved if moment != "step" else {name: torch.tensor(0.0) for name in moved}
            )
        self.optimizer.state.clear()
        for moment, values in moments.items():
            for name, value in values.items():  # fused: the step count lies with the parameter as well
                self.optimizer.state[parameters[name]][moment] = value.to(parameters[name].device)


def save_checkpoint(
    output_dir: Path,
    step: int,
    state: TrainingState,
    progress: dict[str, Any],
    preprocessor: Any,
    postprocessor: Any,
) -> Path:
    """Write checkpoints/<step> and point `last` to it; returns the folder.

    Args:
        step: updates done.
        progress: JSON-able rest of the state (recipe, step, running means).

    Raises:
        FoveaError: if the disk is full; the checkpoint before it is whole then, and what was half written is gone.
    """
    folder = output_dir / CHECKPOINTS / f"{step:06d}"
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with full_disk_named(folder), _safetensors_errors_named():
            (temporary / STATE).mkdir(parents=True)
            with state.average.applied():
                state.policy.save_pretrained(temporary / MODEL)
            for processor in (preprocessor, postprocessor):
                processor.save_pretrained(temporary / MODEL)
            tensors = state.tensors()
            save_file(tensors, temporary / STATE / "state.safetensors")
            rest = {"step": step, "tensors": len(tensors), **progress}
            write_json(temporary / STATE / "state.json", rest)
            write_json(temporary / STATE / "training_step.json", {"step": step})  # LeRobot's name
            for part in (MODEL, STATE):
                write_checksums(temporary / part)
            for path in temporary.rglob("*.safetensors"):
                _to_disk(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    link = folder.with_name(f".{LAST}.tmp")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    last = folder.with_name(LAST)
    if last.is_dir() and not last.is_symlink():  # a copy of the run that followed links
        shutil.rmtree(last)
    os.replace(link, last)
    for other in _numbered(folder.parent):
        if other != folder:
            shutil.rmtree(other / STATE, ignore_errors=True)
    return folder


def _numbered(checkpoints: Path) -> list[Path]:
    """The folders of checkpoints, not a copy of one that somebody put beside them ("000500.bak")."""
    return [folder for folder in checkpoints.glob("[0-9]*") if folder.name.isdecimal()]


@contextmanager
def _safetensors_errors_named() -> Iterator[None]:
    """An error of the system that safetensors met while writing is raised as the `OSError` it was."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), str(error)) from error


def _to_disk(path: Path) -> None:
    """See a written file to the disk: a name that survives a power cut must have its contents."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The folder `checkpoints/last` points to; without a link that leads anywhere (a run that was copied may have
    lost it) the newest that a run can go on from; or None.
    """
    link = Path(output_dir) / CHECKPOINTS / LAST
    if link.is_symlink() and link.exists():
        return link.resolve()
    whole = [folder for folder in _numbered(link.parent) if (folder / STATE).is_dir()]
    if whole:
        return max(whole, key=lambda folder: int(folder.name)).resolve()
    return link.resolve() if link.exists() else None


def load_progress(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint.

    Raises:
        FoveaError: if it is missing or damaged.
    """
    try:
        check_checksums(folder / STATE)
        path = folder / STATE / "state.json"
        progress = read_json(path, "training state")
        for name, kind in (("step", int), ("recipe", dict), ("means", dict), ("seconds", int | float)):
            if not isinstance(progress, dict) or not isinstance(progress.get(name), kind):
                raise FoveaError(f"{path} is damaged: it lacks {name}")
        return progress
    except FoveaError as error:
        raise FoveaError(f"cannot go on from {folder}: {error}; {_REMEDY.format(folder=folder)}") from error


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Restore weights, average and optimiser.

    Raises:
        FoveaError: if the file is missing, damaged, or of another policy.
    """
    path = folder / STATE / "state.safetensors"
    expected = load_progress(folder).get("tensors")  # runs of earlier versions do not say
    try:
        tensors = load_file(path)
        if expected not in (None, len(tensors)):
            raise ValueError(f"expected {expected} tensors, found {len(tensors)}")
        state.load(tensors)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
        raise FoveaError(f"cannot go on from {path} ({error}); {_REMEDY.format(folder=folder)}") from error


def check_recipe(
    folder: Path, saved: dict[str, Any], present: dict[str, Any], defaults: dict[str, Any] | None = None
) -> None:
    """Refuse to go on with another recipe than the run was started with.

    Args:
        defaults: of settings; one that the saved recipe does not know (it is newer than the run) had this value.

    Raises:
        FoveaError: names what differs.
    """
    saved, present = comparable(saved, present, defaults or {})
    different = [key for key in sorted(saved.keys() | present.keys()) if saved.get(key) != present.get(key)]
    if different:
        shown = "; ".join(
            f"{key} was {_short(saved.get(key))}, is {_short(present.get(key))}" for key in different
        )
        raise FoveaError(
            f"the run in {folder.parent.parent} was started differently: {shown}. Use the same settings to go on, "
            "or another output folder to start anew"
        )


def comparable(
    saved: dict[str, Any], present: dict[str, Any], defaults: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Saved and present settings as JSON, flat ("policy.vlm.layers"); what is newer than the saved ones has its default
    there.
    """
    saved, present, before = (flat(json.loads(json.dumps(each))) for each in (saved, present, defaults))
    return {**{key: value for key, value in before.items() if key in present}, **saved}, present


def _short(value: Any, limit: int = 80) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[:limit] + "..."
