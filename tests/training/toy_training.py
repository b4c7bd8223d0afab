"""A toy policy and toy data: training runs in milliseconds. Run as a script it trains and kills itself."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import make_default_pre_post_processors
from torch import nn

from fovea.data.dataset import EpisodeInfo
from fovea.data.windows import WindowSource
from fovea.training.trainer import TrainConfig, train

T, H = 4, 3


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
    config_class = ToyConfig
    name = "toy_for_tests"

    def __init__(self, config, **kw):
        super().__init__(config)
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 7))
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        if self.training:
            self.seen += 1
        target = batch["action"][:, :T]
        error = (self.net(batch["observation.state"]) * self.scale - target).abs().mean(-1)
        real = ~batch["action_is_pad"][:, :T]
        loss = (error * real).sum() / real.sum()
        return loss, {"l1": loss.item()}

    def get_optim_params(self):
        return self.parameters()

    def reset(self):
        pass

    def select_action(self, batch, **kw):
        return self.net(batch["observation.state"])

    predict_action_chunk = select_action


def toy_policy():
    torch.manual_seed(0)
    config = ToyConfig(device="cpu")
    config.input_features = {"observation.state": PolicyFeature(FeatureType.STATE, (8,))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    config.normalization_mapping = {"STATE": NormalizationMode.MEAN_STD, "ACTION": NormalizationMode.IDENTITY}
    return ToyPolicy(config)


def toy_source(split="train", source_class=WindowSource):
    """Actions are a fixed function of states: something to learn."""
    rng = np.random.default_rng(0)
    state = rng.normal(size=(60, 8)).astype(np.float32)
    action = np.tanh(state @ rng.normal(size=(8, 7))).astype(np.float32)
    episodes = [EpisodeInfo(i, 15 * i, 15 * i + 15, "reach", "val" if i == 3 else "train") for i in range(4)]
    dataset = SimpleNamespace(
        root=Path("toy"), state=state, action=action, cameras=(), fingerprint="toy", episodes=episodes
    )
    chosen = [episode for episode in episodes if episode.split == split]
    return source_class(dataset, episodes=chosen, context=T, horizon=H)


def toy_processors(policy):
    stats = {"observation.state": {"mean": np.zeros(8, np.float32), "std": np.full(8, 2, np.float32)}}
    return make_default_pre_post_processors(policy.config, stats)


def run(folder, *, source=None, policy=None, **changes):
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
        *toy_processors(policy),
        source or toy_source(),
        folder,
        validation=toy_source("val"),
        progress=False,
    )


class DyingSource(WindowSource):
    """Kills the process, as the system would, when step 27 is drawn."""

    def sample(self, seed, step, count):
        if step == 27:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(seed, step, count)


if __name__ == "__main__":
    run(sys.argv[1], source=toy_source(source_class=DyingSource))
