"""From a data set and a policy configuration to a trained policy, through the feature cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature

from fovea.actions import commanded_pose
from fovea.data.augment import Augmentation
from fovea.data.dataset import RecordedDataset, open_dataset
from fovea.data.feature_build import build_features
from fovea.data.feature_views import FeatureViews, build_views
from fovea.data.files import read_json
from fovea.data.joint import JointSource
from fovea.data.keys import ACTION, STATE
from fovea.data.pictures import GIGABYTE
from fovea.data.windows import WindowSource
from fovea.encoders.base import VisionEncoder
from fovea.errors import FoveaError
from fovea.pipelines.policies import build_policy, build_processors, encoder_of
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.features_ef_vla import proprio_from_axis_angle
from fovea.policies.vlm_policy.configuration import VLMPolicyConfig
from fovea.training.checkpoint import CHECKPOINTS
from fovea.training.ranks import claim_gpu, is_main_process
from fovea.training.trainer import TrainConfig, TrainResult, train

DATA_RECORD = "data.json"  # in a run's folder: what its policy saw


def dataset_stats(datasets: Sequence[RecordedDataset]) -> dict[str, dict[str, torch.Tensor]]:
    """Statistics of the columns of one or several data sets, as LeRobot's processors want them.

    Non-obvious: LeRobot joins quantiles by averaging them; states and actions are small enough to take those of
    all rows together.
    """
    stats = {key: _arrays(value) for key, value in datasets[0].stats.items()}
    if len(datasets) > 1:
        from lerobot.datasets.compute_stats import aggregate_stats

        stats = aggregate_stats([{k: _arrays(v) for k, v in dataset.stats.items()} for dataset in datasets])
        for key, rows in ((STATE, [d.state for d in datasets]), (ACTION, [d.action for d in datasets])):
            for name in [name for name in stats[key] if name[:1] == "q" and name[1:].isdigit()]:
                stats[key][name] = np.quantile(np.concatenate(rows), int(name[1:]) / 100, axis=0)
    return {
        key: {name: torch.as_tensor(np.asarray(value, np.float32)) for name, value in values.items()}
        for key, values in stats.items()
    }


def _arrays(stats: dict[str, list]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in stats.items()}


def train_policy(
    data: Path | Sequence[Path],
    policy_config: EFVLAConfig | VLMPolicyConfig,
    train_config: TrainConfig,
    out: Path,
    *,
    workers: int = 2,
    variants: int = 0,
    augmentation: Augmentation | None = None,
    memory: int = 2 * GIGABYTE,
) -> TrainResult:
    """Cache the encoder's features of a data set and train one of our policies on them; both stages resume.

    A policy whose vision is trained (`config.uses_pixels`) sees decoded pictures instead.

    Args:
        data: folder of the data set, or of several that are trained on together.
        out: folder of the training run.
        workers: threads that encode.
        variants: augmented views of every frame that are cached, 0 for none; from pixels any number above 0 draws a new
            view for every window.
        augmentation: what is drawn, Table 6 by default.
        memory: bytes to keep decoded pictures in.

    Raises:
        FoveaError: from the data set, the cache or the trainer.
    """
    claim_gpu(policy_config.device)
    datasets = [open_dataset(root) for root in ([data] if isinstance(data, Path) else data)]
    for dataset in datasets:
        fit_to_data(policy_config, dataset)
    encoder = encoder_of(policy_config)
    records = {DATA_RECORD: record_of(datasets)}
    if isinstance(policy_config, EFVLAConfig) and policy_config.plays_libero:
        for dataset in datasets:
            dataset.action = commanded_poses(dataset.state, dataset.action)
    augmentation, pixels = augmentation or Augmentation(), policy_config.uses_pixels

    def cached(dataset: RecordedDataset) -> FeatureViews:
        assert encoder is not None  # without one, the policy learns from pixels
        encoder.to(policy_config.device or "cpu")
        return build_views(
            encoder, dataset, augmentation, variants, workers=workers, progress=is_main_process()
        )

    features = [None if pixels else cached(dataset) for dataset in datasets]
    torch.manual_seed(train_config.seed)
    policy = build_policy(policy_config, encoder)
    before, after = build_processors(policy_config, dataset_stats(datasets))

    def windows(split: str) -> WindowSource | JointSource | None:
        sizes: dict[str, Any] = {
            "context": policy_config.n_obs_steps,
            "horizon": policy_config.chunk_size,
            "stride": getattr(policy_config, "obs_stride", 1),
            "augmentation": augmentation if pixels and variants and split == "train" else None,
            "memory": memory,
        }
        sources = [
            WindowSource(dataset, its, episodes=dataset.select(split), **sizes)
            for dataset, its in zip(datasets, features, strict=True)
            if dataset.select(split)
        ]
        return (sources[0] if len(sources) == 1 else JointSource(sources)) if sources else None

    training = windows("train")
    if training is None:
        raise FoveaError(f"expected at least one training episode in {data}, got none; check the split")
    return train(
        train_config, policy, before, after, training, out, validation=windows("val"), records=records
    )


def fit_to_data(config: EFVLAConfig | VLMPolicyConfig, dataset: RecordedDataset) -> None:
    """Let a policy's configuration say how large the pictures of its data are, as whoever draws for it must know.

    Raises:
        FoveaError: the data set has other cameras, states or actions of another size than the policy, or is of
            another robot by its statistics.
    """
    inputs = config.input_features or {}
    poses = getattr(config, "action_space", "env") == "se3_relative"
    if strange := sorted(set(config.camera_keys) - set(dataset.cameras)):
        raise FoveaError(
            f"expected cameras among {', '.join(dataset.cameras)} ({dataset.root}), but the policy wants "
            f"{', '.join(strange)}"
        )
    for kind, key, got, feature in (
        ("states", STATE, dataset.state.shape[1], inputs.get(STATE)),
        ("actions", ACTION, dataset.action.shape[1], (config.output_features or {}).get(ACTION)),
    ):
        if feature is not None and tuple(feature.shape) != (got,):
            raise FoveaError(
                f"expected {kind} of {feature.shape[0]} numbers, as the policy has them, but those of {dataset.root} "
                f"have {got}; choose a preset that fits, or set the policy's features ({key})"
                + (
                    "; preset otter takes LIBERO's data with --policy.state_layout axis_angle"
                    if poses
                    else ""
                )
            )
    config.check_data(dataset_stats([dataset]))
    config.input_features = inputs | {
        key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, *dataset.picture_sizes[key]))
        for key in config.camera_keys
    }


def commanded_poses(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """What LIBERO's changes of pose (F, 7) ask for in the states (F, 8) they were given in: poses (F, 10)."""
    poses = proprio_from_axis_angle(torch.from_numpy(state))
    return commanded_pose(poses, torch.from_numpy(action)).numpy()


def record_of(datasets: Sequence[RecordedDataset]) -> dict[str, Any]:
    """What a run keeps about its data: fingerprints and how pictures were drawn.

    Raises:
        FoveaError: the pictures of the data sets were drawn in different ways.
    """
    renders = [dataset.record.get("render") for dataset in datasets]
    for dataset, render in zip(datasets, renders, strict=True):
        if render != renders[0]:
            raise FoveaError(
                f"expected data sets whose pictures were drawn alike; {datasets[0].root} has {renders[0]}, "
                f"{dataset.root} has {render}"
            )
    prints = [dataset.fingerprint for dataset in datasets]
    return {"fingerprint": prints[0] if len(prints) == 1 else prints, "render": renders[0]}


def trained_on(checkpoint: Path) -> dict[str, Any] | None:
    """Render settings of the data that a checkpoint learned from, where its run kept them.

    Raises:
        FoveaError: the run's record of its data is damaged.
    """
    runs = (folder.parent for folder in checkpoint.resolve().parents if folder.name == CHECKPOINTS)
    path = next((run / DATA_RECORD for run in runs if (run / DATA_RECORD).is_file()), None)
    if path is None:
        return None
    record = read_json(path, "record of a run's data")
    render = record.get("render", False) if isinstance(record, dict) else False
    if not (render is None or isinstance(render, dict)):
        raise FoveaError(
            f"{path} is damaged: it should say how pictures were drawn (render); restore or delete it"
        )
    return render


def cache_features(data: Path, encoder: VisionEncoder, workers: int = 2) -> None:
    """Only the cache, for pipelines that time it apart from training."""
    build_features(encoder, open_dataset(data), workers=workers)
