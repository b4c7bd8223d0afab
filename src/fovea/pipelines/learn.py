"""From a data set and a policy configuration to a trained policy, through the feature cache."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fovea.data.dataset import open_dataset
from fovea.data.feature_build import build_features
from fovea.data.files import write_json
from fovea.data.windows import WindowSource
from fovea.encoders import create_encoder
from fovea.encoders.base import Encoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors
from fovea.training.trainer import TrainConfig, TrainResult, train

DATA_RECORD = "data.json"  # in a run's folder: what its policy saw


def dataset_stats(root: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Statistics of a LeRobotDataset's columns, as LeRobot's processors want them.

    Raises:
        FoveaError: if the data set has no meta/stats.json.
    """
    path = root / "meta" / "stats.json"
    if not path.exists():
        raise FoveaError(f"expected statistics at {path}, found none; is {root} a LeRobotDataset v3?")
    stats: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return {
        key: {name: torch.as_tensor(np.asarray(value, np.float32)) for name, value in values.items()}
        for key, values in stats.items()
    }


def train_policy(
    data: Path,
    policy_config: EFVLAConfig,
    train_config: TrainConfig,
    out: Path,
    *,
    workers: int = 2,
) -> TrainResult:
    """Cache the encoder's features of a data set and train EF-VLA or LF-VLA on them; both stages resume.

    Args:
        data: folder of the data set.
        out: folder of the training run.
        workers: threads that encode.

    Raises:
        FoveaError: from the data set, the cache or the trainer.
    """
    encoder = create_encoder(policy_config.encoder, tap=policy_config.tap)
    dataset = open_dataset(data)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / DATA_RECORD, {"fingerprint": dataset.fingerprint, "render": render_of(data)})
    features = build_features(encoder, dataset, workers=workers)
    torch.manual_seed(train_config.seed)
    policy = EFVLAPolicy(policy_config, encoder=encoder)
    before, after = make_ef_vla_pre_post_processors(policy_config, dataset_stats(data))
    sizes = {"context": policy_config.n_obs_steps, "horizon": policy_config.chunk_size}
    training = WindowSource(dataset, features, episodes=dataset.select("train"), **sizes)
    held_back = dataset.select("val")
    validation = WindowSource(dataset, features, episodes=held_back, **sizes) if held_back else None
    return train(train_config, policy, before, after, training, out, validation=validation)


def render_of(data: Path) -> dict[str, Any] | None:
    """How the pictures of a data set were drawn; None for one that was not collected here."""
    path = data / "meta" / "fovea.json"
    return json.loads(path.read_text()).get("render") if path.exists() else None


def trained_on(checkpoint: Path) -> dict[str, Any] | None:
    """Render settings of the data that a checkpoint learned from, where its run kept them."""
    for folder in checkpoint.resolve().parents:
        if (folder / DATA_RECORD).is_file():
            return json.loads((folder / DATA_RECORD).read_text())["render"]
    return None


def cache_features(data: Path, encoder: Encoder, workers: int = 2) -> None:
    """Only the cache, for pipelines that time it apart from training."""
    build_features(encoder, open_dataset(data), workers=workers)
