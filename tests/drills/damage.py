"""Cut files and flip bits at random in what Fovea keeps: every reader notices, or what it reads is what was written."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_feature_cache import PoolEncoder

from fovea.data.dataset import open_dataset
from fovea.data.feature_build import build_features
from fovea.data.feature_cache import FeatureCache
from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.evaluation.actor import Actor
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors
from fovea.training.checkpoint import (
    TrainingState,
    last_checkpoint,
    load_checkpoint,
    load_progress,
    save_checkpoint,
)
from fovea.training.ema import WeightAverage


def hurt(folder: Path, rng: random.Random) -> str:
    """Cut one file of a folder somewhere, or flip one of its bits; says what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        length = rng.randrange(len(content))
        path.write_bytes(content[:length])
        return f"{path.relative_to(folder)} cut to {length} of {len(content)} bytes"
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"{path.relative_to(folder)}, bit {bit} flipped"


def make_dataset(root: Path, source: Path) -> None:
    shutil.copytree(source, root)


def read_dataset(root: Path) -> list[Any]:
    data = open_dataset(root)
    return [
        data.state,
        data.action,
        data.fps,
        [(e.index, e.start, e.stop, e.task, e.split, e.label_from, e.record) for e in data.episodes],
        data.stats,
        data.record.get("suite"),
        *(data.frames(episode.index, camera) for episode in data.episodes for camera in data.cameras),
    ]


def make_cache(root: Path, source: Path) -> None:
    build_features(PoolEncoder(), open_dataset(source), root=root, workers=1, progress=False)


def read_cache(root: Path) -> list[Any]:
    (folder,) = (path for path in (root / "features").iterdir() if path.is_dir())
    cache = FeatureCache(folder)
    return [cache.episode(number) for number in range(len(cache.about["episodes"]))]


def make_checkpoint(root: Path, source: Path) -> None:
    """As `fovea train` leaves it."""
    torch.manual_seed(0)
    encoder = TinyEncoder(TinyConfig.tiny(image_size=32), ["milk"])
    policy = EFVLAPolicy(EFVLAConfig.tiny(device="cpu"), encoder=encoder)
    stats = {
        "observation.state": {"mean": np.zeros(8), "std": np.ones(8)},
        "action": {"q01": np.full(7, -0.5), "q99": np.full(7, 0.5)},
    }
    state = TrainingState(policy, torch.optim.AdamW(policy.parameters()), WeightAverage(policy))
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    progress: dict[str, Any] = {"recipe": {}, "means": {}, "seconds": 1.0}
    save_checkpoint(root, 3, state, progress, *make_ef_vla_pre_post_processors(policy.config, stats))


def read_checkpoint(root: Path) -> list[Any]:
    folder = last_checkpoint(root)
    assert folder is not None
    actor = Actor.load(folder)
    progress = load_progress(folder)
    policy = EFVLAPolicy(actor.policy.config)
    state = TrainingState(policy, torch.optim.AdamW(policy.parameters()), WeightAverage(policy))
    load_checkpoint(folder, state)
    pipelines = [pipeline.state_dict() for pipeline in (actor.preprocessor, actor.postprocessor)]
    weights = [value for one in (actor.policy, policy) for value in one.state_dict().values()]
    return [*weights, progress, *pipelines, str(actor.policy.config)]


KINDS: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path], list[Any]]]] = {
    "data set": (make_dataset, read_dataset),
    "cache": (make_cache, read_cache),
    "checkpoint": (make_checkpoint, read_checkpoint),
}


def equal(a: Any, b: Any) -> bool:
    """Deep equality that knows arrays and tensors."""
    if isinstance(a, torch.Tensor | np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
