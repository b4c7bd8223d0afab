"""A trained policy as something that acts: checkpoint in, actions out, several episodes at a time."""

import contextlib
import copy
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from fovea.data import keys
from fovea.data.files import check_checksums, read_json, sha256_file
from fovea.errors import FoveaError
from fovea.evaluation.scaling import check_scaling

Observation = dict[str, Any]

STATE_SIZE, ACTION_SIZE = 8, 7
ADAPTER = "adapter_model.safetensors"  # what PEFT (LoRA) saves instead of all weights


class Actor:
    """A policy that acts for several episodes at once, with its processors.

    Args:
        policy: one with `new_episode`, `act` and perhaps `act_blind`, as EF-VLA has them.
        preprocessor, postprocessor: LeRobot's pipelines of that policy.
        identity: names the policy in results; episodes of another identity are not re-used.
    """

    def __init__(self, policy: Any, preprocessor: Any, postprocessor: Any, identity: str) -> None:
        self.policy = policy.eval()
        self.preprocessor, self.postprocessor = preprocessor, postprocessor
        self.identity = identity

    @classmethod
    def load(cls, checkpoint: Path, **changes: Any) -> "Actor":
        """Load a checkpoint folder of any LeRobot policy (config.json, model.safetensors, processors).

        Args:
            checkpoint: the folder, or one that holds `pretrained_model`.
            changes: configuration fields to change for acting, e.g. `n_action_steps=4`.

        Raises:
            FoveaError: if the folder is no checkpoint, LeRobot does not know or cannot load its policy, a change
                does not exist, or the policy wants what LIBERO does not show.
        """
        folder = checkpoint / "pretrained_model" if (checkpoint / "pretrained_model").is_dir() else checkpoint
        names = ("config.json", ADAPTER if (folder / ADAPTER).is_file() else "model.safetensors")
        for name in names:
            if not (folder / name).is_file():
                raise FoveaError(
                    f"expected a checkpoint with {name} in {folder}, found none; train a policy first"
                )
        check_checksums(folder)
        policy, before, after = _load_policy(folder, changes)
        _check_features(folder, policy.config, before)
        check_scaling(folder, before, after)
        kind = Actor if hasattr(policy, "new_episode") else SelectActor
        return kind(policy, before, after, _identity(folder, changes))

    @property
    def title(self) -> str:
        """What reports call the policy."""
        config = self.policy.config
        fusion = getattr(config, "fusion", None)
        plain = getattr(config, "title", None) or config.type
        return {"early": "EF-VLA", "late": "LF-VLA"}.get(str(fusion), str(fusion or plain))

    @property
    def image_size(self) -> int:
        """Side in pixels of the pictures that the policy was trained on; 128 for one that sees none."""
        features = self.policy.config.image_features
        return max(
            (its.shape[-1] for key, its in features.items() if keys.EMPTY_CAMERA not in key), default=128
        )

    @property
    def has_maps(self) -> bool:
        """Whether the policy has word-to-patch maps (`fovea.lens.word_maps`)."""
        return getattr(self.policy.config, "fusion", None) == "early"

    def new_episode(self, seed: int) -> Any:
        """Memory for an episode that begins; `seed` draws what a policy draws."""
        return self.policy.new_episode()

    def batch(self, observations: Sequence[Observation]) -> Any:
        """Preprocessed batch of B single frames from `LiberoEnv.observe`."""
        return self.preprocessor(_stack(observations))

    @torch.no_grad()
    def act(self, states: Sequence[Any], batch: Any) -> np.ndarray:
        """(B, 7) actions in [-1, 1] for B episodes.

        Raises:
            FoveaError: if the policy gives NaN or infinity.
        """
        return self._checked(self._actions(states, batch))

    @staticmethod
    def _checked(played: torch.Tensor) -> np.ndarray:
        actions = played.cpu().numpy().astype(np.float64)
        if not np.isfinite(actions).all():
            raise FoveaError(
                "the policy gave actions that are not finite; is its checkpoint of a run that diverged? "
                "Look at its metrics.jsonl"
            )
        return np.clip(actions, -1.0, 1.0)

    def play(self, states: Sequence[Any], batch: Any, every_frame: Sequence[bool]) -> list[np.ndarray]:
        """For each of B episodes the actions (K, 7) up to the next frame that its policy looks at, K of at least 1.

        Args:
            every_frame: which episodes must be asked at every frame all the same, because it will be shown.
        """
        first = self.act(states, batch)
        return [
            action[None] if every else np.concatenate([action[None], self._blind(state)])
            for action, state, every in zip(first, states, every_frame, strict=True)
        ]

    @torch.no_grad()
    def _blind(self, state: Any) -> np.ndarray:
        """(K, 7), K may be 0: what follows before the policy looks again, where it can tell."""
        if not hasattr(self.policy, "act_blind"):
            return np.empty((0, ACTION_SIZE))
        actions = self.policy.act_blind(state)
        return self._checked(self.postprocessor(actions)) if len(actions) else np.empty((0, ACTION_SIZE))

    def _actions(self, states: Sequence[Any], batch: Any) -> torch.Tensor:
        return self.postprocessor(self.policy.act(states, batch))


@dataclass
class OwnPolicy:
    """An episode's own copy of a policy, which keeps the episode's memory inside itself."""

    policy: Any
    seed: int
    step: int = 0


class SelectActor(Actor):
    """Any other LeRobot policy, through `select_action`.

    Such a policy keeps the memory of an episode (queues of actions or frames) inside itself; so every episode gets a
    copy that shares the weights and is asked alone. What the policy draws depends on the episode and the step only,
    not on the workers: outcomes are the same whatever their number.
    """

    def new_episode(self, seed: int) -> OwnPolicy:
        shared = {id(parameter): parameter for parameter in self.policy.parameters()}
        own = copy.deepcopy(self.policy, shared)
        own.reset()
        return OwnPolicy(own, seed % 2**62)

    def batch(self, observations: Sequence[Observation]) -> list[Any]:
        """One batch of one frame each: preprocessors pad sentences to the longest of a batch."""
        batches = []
        for observation in observations:
            batch = _stack([observation])
            for key in keys.IMAGES:
                batch[key] = batch[key].float() / 255  # what LeRobot's environments hand out
            batches.append(self.preprocessor(batch))
        return batches

    def _actions(self, states: Sequence[OwnPolicy], batch: Any) -> torch.Tensor:
        rows = []
        device = torch.device(self.policy.config.device or "cpu")
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for state, one in zip(states, batch, strict=True):
                torch.manual_seed(state.seed + state.step)
                state.step += 1
                rows.append(self.postprocessor(state.policy.select_action(one)))
        return torch.cat(rows)


def _stack(observations: Sequence[Observation]) -> dict[str, Any]:
    """B frames as LeRobot's keys: pictures (B, 3, h, w) uint8, state (B, 8), B sentences."""
    batch: dict[str, Any] = {}
    for key in keys.IMAGES:
        pictures = np.stack([observation[key] for observation in observations])
        batch[key] = torch.from_numpy(np.moveaxis(pictures, -1, 1).copy())
    batch[keys.STATE] = torch.from_numpy(np.stack([o[keys.STATE] for o in observations]))
    batch[keys.TASK] = [observation[keys.TASK] for observation in observations]
    return batch


def _load_policy(folder: Path, changes: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Policy and processors of a folder, on a device that this machine has."""
    from draccus.utils import DraccusException
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()  # ours, and whatever else is installed
    if not isinstance(found := read_json(folder / "config.json", "policy's configuration"), dict):
        raise FoveaError(f"expected a policy's configuration in {folder / 'config.json'}, got {found!r}")
    try:
        config = PreTrainedConfig.from_pretrained(folder)
        policy_class = get_policy_class(config.type)
    except (ValueError, DraccusException, ImportError) as error:
        raise FoveaError(f"LeRobot cannot load the policy of {folder / 'config.json'}: {error}") from error
    for name, value in changes.items():
        if not hasattr(config, name):
            raise FoveaError(f"{config.type} has no setting {name!r}")
        setattr(config, name, value)
    if changes:
        try:
            config.__post_init__()  # what was changed must make sense with the rest
        except (ValueError, NotImplementedError) as error:
            told = ", ".join(f"{name}={value}" for name, value in changes.items())
            raise FoveaError(f"{config.type} cannot act with {told}: {error}") from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # LeRobot says there that it loads; numbers go to ours
            if (folder / ADAPTER).is_file():
                policy = _with_adapter(policy_class, config, folder)
            else:
                policy = policy_class.from_pretrained(folder, config=config, strict=True)
        overrides = {"device_processor": {"device": config.device}}
        before, after = make_pre_post_processors(
            config, pretrained_path=str(folder), preprocessor_overrides=overrides
        )
    except (RuntimeError, ValueError, KeyError, ImportError, FileNotFoundError, SafetensorError) as error:
        raise FoveaError(f"LeRobot cannot load the {config.type} policy in {folder}: {error}") from error
    return policy, before, after


def _with_adapter(policy_class: Any, config: Any, folder: Path) -> Any:
    """The policy that an adapter was trained on, with the adapter's weights added to its own.

    Raises:
        FoveaError: that policy's folder is not there any more.
    """
    from peft import PeftConfig, PeftModel

    adapter = PeftConfig.from_pretrained(str(folder))
    base = Path(adapter.base_model_name_or_path or "")
    if not (base / "model.safetensors").is_file():
        raise FoveaError(
            f"the adapter in {folder} belongs to the policy in {base}, which is not there; put it back, or correct "
            "base_model_name_or_path in adapter_config.json"
        )
    policy = policy_class.from_pretrained(base, config=config, strict=True)
    return PeftModel.from_pretrained(policy, str(folder), config=adapter).merge_and_unload()


def _check_features(folder: Path, config: Any, preprocessor: Any) -> None:
    """Refuse a policy that wants a camera, a state or an action that LIBERO does not have."""
    renamed: dict[str, str] = {}
    for step in getattr(preprocessor, "steps", ()):
        renamed |= getattr(step, "rename_map", {})
    shown = {renamed.get(key, key) for key in (*keys.IMAGES, keys.STATE)}
    wanted = {key for key in config.input_features if keys.EMPTY_CAMERA not in key}
    if lacking := sorted(wanted - shown):
        raise FoveaError(
            f"the {config.type} policy in {folder} wants {', '.join(lacking)}, but LIBERO shows "
            f"{', '.join(sorted(shown))}; train it on data with these names, or add a renaming step to its preprocessor"
        )
    for feature, size, what in (
        (config.robot_state_feature, STATE_SIZE, "states"),
        (config.action_feature, ACTION_SIZE, "actions"),
    ):
        if feature is not None and tuple(feature.shape) != (size,):
            raise FoveaError(
                f"expected a policy with {what} of {size} numbers (see `fovea collect`), but the {config.type} policy "
                f"in {folder} has {what} of shape {tuple(feature.shape)}"
            )


def _identity(folder: Path, changes: dict[str, Any]) -> str:
    """16 hex digits of the weights, the configuration, the processors, and the changes."""
    weights = [folder / name for name in ("model.safetensors", ADAPTER) if (folder / name).is_file()]
    files = [*weights, folder / "config.json", *sorted(folder.glob("policy_*processor*"))]
    parts = [sha256_file(path) for path in files] + [json.dumps(changes, sort_keys=True, default=str)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
