"""A toy policy and toy data: training runs in milliseconds. Run as a script it trains in the folder that is given."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import make_default_pre_post_processors
from torch import nn

from fovea.data.augment import Augmentation
from fovea.data.dataset import EpisodeInfo
from fovea.data.feature_views import build_views
from fovea.data.windows import WindowSource
from fovea.encoders.base import VisionEncoder
from fovea.tokens import Tokens
from fovea.training.trainer import TrainConfig, train

T, H = 4, 3
CAMERA = "observation.images.image"


@PreTrainedConfig.register_subclass("toy_for_tests")
@dataclass
class ToyConfig(PreTrainedConfig):
    observation_delta_indices = None
    action_delta_indices = None
    reward_delta_indices = None

    def get_optimizer_preset(self):
        return None

    def get_scheduler_preset(self):
        return None

    def validate_features(self):
        pass


class ToyPolicy(PreTrainedPolicy):
    """Acts on the state and, where a batch has them, on the mean colours of pictures or of cached patches."""

    config_class = ToyConfig
    name = "toy_for_tests"

    def __init__(self, config, **kw):
        super().__init__(config)
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 7))
        self.scale = nn.Parameter(torch.ones(()))
        self.tower = nn.Linear(3, 8)  # unused, without gradient, where there is nothing to see
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        state = batch["observation.state"]
        if self.training:
            self.seen += 1
            state = state + 0.05 * torch.randn_like(state)
        if CAMERA in batch:
            state = state + self.tower(batch[CAMERA].float().mean((-2, -1)) / 255)
        elif "observation.features.image" in batch:
            state = state + self.tower(batch["observation.features.image"].float().mean(-2))
        error = (self.net(state) * self.scale - batch["action"][:, :T]).abs().mean(-1)
        real = ~batch["action_is_pad"][:, :T]
        loss = (error * real).sum() / real.sum().clamp(min=1)
        return loss, {"l1": loss.item(), "weight": real.sum().item()}

    def get_optim_params(self):
        return self.parameters()

    def reset(self):
        pass

    def select_action(self, batch, **kw):
        return self.net(batch["observation.state"])

    predict_action_chunk = select_action


class ToyDataset:
    """Four episodes of 15 steps; actions are a fixed function of states: something to learn."""

    root, fingerprint = Path("toy"), "toy"

    def __init__(self, cameras=()):
        rng = np.random.default_rng(0)
        self.cameras = cameras
        self.state = rng.normal(size=(60, 8)).astype(np.float32)
        self.action = np.tanh(self.state @ rng.normal(size=(8, 7))).astype(np.float32)
        splits = ("train", "train", "train", "val")
        self.episodes = [
            EpisodeInfo(i, 15 * i, 15 * i + 15, "reach", split) for i, split in enumerate(splits)
        ]

    def __len__(self):
        return len(self.state)

    def select(self, split):
        return [episode for episode in self.episodes if episode.split == split]

    def frames(self, episode, camera, first=0, count=None):
        pictures = (
            np.random.default_rng([episode, len(camera)]).integers(0, 255, (15, 8, 8, 3)).astype(np.uint8)
        )
        return pictures[first : None if count is None else first + count]


class ColourEncoder(VisionEncoder):
    """Mean colours of a 2 x 2 grid."""

    def __init__(self, delay=0.0):
        super().__init__()
        self.name, self.image_size, self.grid, self.width, self.tap = "colours", 8, (2, 2), 3, "out"
        self.delay = delay

    def preprocess(self, images):
        return images.float() / 255

    def encode_image(self, images):
        time.sleep(self.delay)
        values = nn.functional.adaptive_avg_pool2d(self.preprocess(images), 2).flatten(2).transpose(1, 2)
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))

    def describe(self):
        return {}


def toy_policy():
    torch.manual_seed(0)
    config = ToyConfig(device="cpu")
    config.input_features = {"observation.state": PolicyFeature(FeatureType.STATE, (8,))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    config.normalization_mapping = {"STATE": NormalizationMode.MEAN_STD, "ACTION": NormalizationMode.IDENTITY}
    return ToyPolicy(config)


def toy_source(split="train", source_class=WindowSource):
    """Windows without pictures."""
    dataset = ToyDataset()
    return source_class(dataset, episodes=dataset.select(split), context=T, horizon=H)


def seeing_source(kind, cache, delay=0.0):
    """Windows with pictures: cached clean and augmented features (`views`), or frames augmented anew (`pixels`)."""
    dataset = ToyDataset((CAMERA, "observation.images.image2"))
    sizes = {"episodes": dataset.select("train"), "context": T, "horizon": H}
    if kind == "pixels":
        return WindowSource(dataset, augmentation=Augmentation(), memory=3 * 15 * 8 * 8 * 3, **sizes)
    views = build_views(
        ColourEncoder(delay), dataset, Augmentation(), 2, root=cache, workers=1, batch_size=4, progress=False
    )
    return WindowSource(dataset, views, **sizes)


def toy_processors(policy, mean=0.0):
    stats = {"observation.state": {"mean": np.full(8, mean, np.float32), "std": np.full(8, 2, np.float32)}}
    return make_default_pre_post_processors(policy.config, stats)


def run(folder, *, source=None, policy=None, processors=None, validation=True, **changes):
    """Train the toy; changes go to the configuration."""
    policy = policy or toy_policy()
    settings = {"steps": 40, "batch_size": 8, "save_every": 10, "log_every": 1, "validate_every": 8} | changes
    settings = {
        "learning_rate": 3e-3,
        "warmup_steps": 5,
        "validation_windows": 16,
        "ema_decay": 0.9,
    } | settings
    return train(
        TrainConfig(**settings),
        policy,
        *(processors or toy_processors(policy)),
        source or toy_source(),
        folder,
        validation=toy_source("val") if validation else None,
        progress=False,
    )


def run_seeing(folder, kind, delay=0.0):
    """Build the cache that `kind` needs and train on it."""
    source = seeing_source(kind, folder / "cache", delay)
    return run(folder / kind, source=source, validation=False, save_every=3)


class DyingSource(WindowSource):
    """Kills the process, as the system would, when step 27 is drawn."""

    def sample(self, seed, step, count):
        if step == 27:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(seed, step, count)


def run_and_die(folder):
    """Train until step 27."""
    run(folder, source=toy_source(source_class=DyingSource))


def run_poisoned(folder):
    """Train on data of which one state of episode 1 is NaN."""
    source = toy_source()
    source.dataset.state[source.dataset.episodes[1].start + 7] = np.nan
    run(folder, source=source)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1])
