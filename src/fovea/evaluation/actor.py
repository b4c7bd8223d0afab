"""A trained policy as something that acts: checkpoint in, actions out, several episodes at a time."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fovea.errors import FoveaError
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy, EpisodeState

Observation = dict[str, Any]


class Actor:
    """A policy with its processors.

    Args:
        policy: EF-VLA or LF-VLA.
        preprocessor, postprocessor: LeRobot's pipelines of that policy.
        identity: names the policy in results; episodes of another identity are not re-used.
    """

    def __init__(self, policy: EFVLAPolicy, preprocessor: Any, postprocessor: Any, identity: str) -> None:
        self.policy = policy.eval()
        self.preprocessor, self.postprocessor = preprocessor, postprocessor
        self.identity = identity

    @classmethod
    def load(cls, checkpoint: Path, **changes: Any) -> "Actor":
        """Load a checkpoint folder (LeRobot's layout: config.json, model.safetensors, processors).

        Args:
            checkpoint: the folder, or one that holds `pretrained_model`.
            changes: configuration fields to change for acting, e.g. `temporal_ensemble="newest"`.

        Raises:
            FoveaError: if the folder is no checkpoint of EF-VLA, or a change does not exist.
        """
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies.factory import make_pre_post_processors

        folder = checkpoint / "pretrained_model" if (checkpoint / "pretrained_model").is_dir() else checkpoint
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FoveaError(
                    f"expected a checkpoint with {name} in {folder}, found none; train a policy first"
                )
        config = PreTrainedConfig.from_pretrained(folder)
        if config.type != "ef_vla":
            raise FoveaError(f"expected a checkpoint of ef_vla in {folder}, got {config.type}")
        for name, value in changes.items():
            if not hasattr(config, name):
                raise FoveaError(f"ef_vla has no setting {name!r}")
            setattr(config, name, value)
        policy = EFVLAPolicy.from_pretrained(folder, config=config)
        before, after = make_pre_post_processors(config, pretrained_path=str(folder))
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes())
        digest.update(json.dumps(changes, sort_keys=True, default=str).encode())
        return cls(policy, before, after, digest.hexdigest()[:16])

    def new_episode(self) -> EpisodeState:
        """Memory for an episode that begins."""
        return self.policy.new_episode()

    def batch(self, observations: Sequence[Observation]) -> dict[str, Any]:
        """Preprocessed batch of B single frames from `LiberoEnv.observe`."""
        first = observations[0]
        batch: dict[str, Any] = {}
        for key in first:
            if key.startswith("observation.images."):
                pictures = np.stack([observation[key] for observation in observations])
                batch[key] = torch.from_numpy(np.moveaxis(pictures, -1, 1).copy())
        batch["observation.state"] = torch.from_numpy(
            np.stack([o["observation.state"] for o in observations])
        )
        batch["task"] = [observation["task"] for observation in observations]
        return self.preprocessor(batch)

    @torch.no_grad()
    def act(self, states: Sequence[EpisodeState], batch: dict[str, Any]) -> np.ndarray:
        """(B, 7) actions in [-1, 1] for B episodes.

        Raises:
            FoveaError: if the policy gives NaN or infinity.
        """
        actions = self.postprocessor(self.policy.act(states, batch)).cpu().numpy().astype(np.float64)
        if not np.isfinite(actions).all():
            raise FoveaError(
                "the policy gave actions that are not finite; is its checkpoint of a run that diverged? "
                "Look at its metrics.jsonl"
            )
        return np.clip(actions, -1.0, 1.0)

    @torch.no_grad()
    def look(self, batch: dict[str, Any]) -> np.ndarray:
        """Word-to-patch maps (B, C, M, rows, columns) of frames of one instruction, M its words; cameras sorted."""
        where = self.policy.attention(batch)
        return where.weights[:, 0][:, :, where.mask[0]].float().cpu().numpy()
