"""The batches of `data` are the batches EF-VLA reads: it trains from cached patches and comes back from disk."""

from types import SimpleNamespace

import numpy as np
import torch

from fovea.data.dataset import EpisodeInfo
from fovea.data.windows import WindowSource
from fovea.encoders.base import Encoder
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors
from fovea.tokens import Tokens
from fovea.training.metrics import read_metrics
from fovea.training.trainer import TrainConfig, train

WIDTH = 8


class WordsOnly(Encoder):
    """Random but fixed words; pictures never reach it, their patches are cached."""

    def __init__(self):
        super().__init__()
        self.name, self.image_size, self.grid, self.width = "words", 32, (2, 2), WIDTH
        self.max_words, self.temperature, self.tap = 4, 0.07, "out"

    def preprocess(self, images):
        raise NotImplementedError

    encode_image = embed_text = preprocess

    def encode_text(self, sentences):
        values = torch.stack([torch.linspace(-1, len(s) % 3, 4 * WIDTH).view(4, WIDTH) for s in sentences])
        return Tokens(
            torch.nn.functional.normalize(values, dim=-1), torch.ones(values.shape[:2], dtype=torch.bool)
        )

    def describe(self):
        return {}


class PatchesInMemory:
    def __init__(self, frames):
        self.values = np.random.default_rng(1).normal(size=(frames, 2, 4, WIDTH)).astype(np.float16)
        self.about = {"dataset": "toy", "identity": "words", "variant": "none"}

    def gather(self, rows, camera):
        return torch.from_numpy(self.values[rows, camera])


def source(split):
    rng = np.random.default_rng(0)
    state = np.repeat(rng.normal(size=(4, 8)), 20, axis=0).astype(np.float32) * 0.3  # still within an episode
    action = np.clip(state[:, :7], -1, 1)
    action[:, 6] = np.where(action[:, 6] > 0, 1, -1)
    tasks = ("pick up the milk", "pick up the ketchup")
    episodes = [
        EpisodeInfo(i, 20 * i, 20 * i + 20, tasks[i % 2], "val" if i == 3 else "train") for i in range(4)
    ]
    cameras = ("observation.images.image", "observation.images.image2")
    dataset = SimpleNamespace(
        root="toy", state=state, action=action, cameras=cameras, fingerprint="toy", episodes=episodes
    )
    chosen = [episode for episode in episodes if episode.split == split]
    return WindowSource(dataset, PatchesInMemory(80), episodes=chosen, context=4, horizon=6, lead=2)


def test_ef_vla_trains_from_cached_patches(tmp_path):
    torch.manual_seed(0)
    policy = EFVLAPolicy(EFVLAConfig.tiny(device="cpu"), encoder=WordsOnly())
    actions = source("train").dataset.action
    stats = {
        "observation.state": {"mean": [0.0] * 8, "std": [0.3] * 8},
        "action": {
            name: np.quantile(actions, q, axis=0).tolist() for name, q in (("q01", 0.01), ("q99", 0.99))
        },
    }
    config = TrainConfig(
        steps=100, batch_size=8, learning_rate=2e-3, warmup_steps=3, ema_decay=0.9, log_every=5
    )
    result = train(
        config,
        policy,
        *make_ef_vla_pre_post_processors(policy.config, stats),
        source("train"),
        tmp_path,
        validation=source("val"),
        progress=False,
    )
    entries = read_metrics(result.metrics)
    assert entries[-1]["loss"] < 0.8 * entries[0]["loss"]
    assert np.isfinite(result.validation_loss)
    loaded = EFVLAPolicy.from_pretrained(result.policy_path)
    assert loaded.config.encoder_identity == WordsOnly().identity
    assert all(torch.isfinite(value).all() for value in loaded.model.state_dict().values())
