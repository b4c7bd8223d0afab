"""EF-VLA whose vision is trained: pictures through the same trainer, stopped and resumed like any other run."""

import numpy as np
import pytest
import torch
from ranks_together import train_together
from toy_training import ToyDataset

from fovea.data import keys
from fovea.data.augment import Augmentation
from fovea.data.feature_views import build_views
from fovea.data.windows import WindowSource
from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors
from fovea.training.metrics import read_metrics
from fovea.training.policies import parameter_groups
from fovea.training.trainer import TrainConfig, train

STEPS = 8


def make_policy(vision, **changes):
    torch.manual_seed(0)
    encoder = TinyEncoder(TinyConfig.tiny(image_size=32), ["reach"]).freeze()
    config = EFVLAConfig.tiny(device="cpu", vision=vision, gripper_loss="l1", **changes)
    return EFVLAPolicy(config, encoder=encoder)


class Stops(WindowSource):
    def sample(self, seed, step, count):
        if step == 6:
            raise KeyboardInterrupt
        return super().sample(seed, step, count)


def make_source(source_class=WindowSource, features=None, augmentation=None):
    dataset = ToyDataset(keys.IMAGES)
    return source_class(dataset, features, augmentation=augmentation, context=4, horizon=6)


def run(policy, source, folder):
    stats = {
        "observation.state": {"mean": np.zeros(8), "std": np.ones(8)},
        "action": {"q01": -np.ones(7), "q99": np.ones(7), "min": -np.ones(7), "max": np.ones(7)},
    }
    config = TrainConfig(
        steps=STEPS, batch_size=4, warmup_steps=2, save_every=4, log_every=1, ema_decay=0.9, loaders=2
    )
    processors = make_ef_vla_pre_post_processors(policy.config, stats)
    result = train(config, policy, *processors, source, folder, progress=False)
    return [(entry["step"], entry["loss"]) for entry in read_metrics(result.metrics)]


@pytest.mark.parametrize("vision", ["finetune", "scratch"])
def test_trained_vision_resumes_to_the_same_losses(tmp_path, vision):
    augmented = {"augmentation": Augmentation()}
    policy = make_policy(vision)
    before = {name: value.clone() for name, value in policy.vision.named_parameters()}
    whole = run(policy, make_source(**augmented), tmp_path / "whole")
    assert any(not torch.equal(value, before[name]) for name, value in policy.vision.named_parameters())
    with pytest.raises(KeyboardInterrupt):
        run(make_policy(vision), make_source(Stops, **augmented), tmp_path / "parts")
    resumed = run(make_policy(vision), make_source(**augmented), tmp_path / "parts")
    assert resumed == whole
    plain = run(make_policy(vision), make_source(), tmp_path / "plain")
    assert plain != whole


def run_noisy(folder):
    """Every kind of noise that EF-VLA has, augmentation too."""
    policy = make_policy(
        "finetune", dropout=0.2, text_dropout=0.3, value_content_dropout=0.3, proprio_noise=0.1
    )
    return run(policy, make_source(augmentation=Augmentation()), folder)


def test_two_processes_finetune_vision_like_one(tmp_path):
    expected = run_noisy(tmp_path / "one")
    assert train_together(2, run_noisy, tmp_path / "two") == [0, 0]
    found = [(entry["step"], entry["loss"]) for entry in read_metrics(tmp_path / "two/metrics.jsonl")]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_finetuned_vision_has_its_own_rate():
    scales = {
        vision: {round(group["lr_scale"], 6) for group in parameter_groups(make_policy(vision), 0.01)}
        for vision in ("frozen", "finetune", "scratch")
    }
    assert scales == {"frozen": {1.0}, "finetune": {1.0, 0.1}, "scratch": {1.0}}
    policy = make_policy("finetune")
    groups = parameter_groups(policy, 0.01)
    slow = {id(p) for group in groups if group["lr_scale"] < 1 for p in group["params"]}
    assert slow == {id(p) for p in policy.vision.parameters() if p.requires_grad}
    assert {group["weight_decay"] for group in groups if group["lr_scale"] < 1} == {0.01, 0.0}


def test_frozen_vision_learns_the_same_from_pixels_and_from_its_cache(tmp_path):
    policy = make_policy("frozen")
    views = build_views(
        policy.encoder, ToyDataset(keys.IMAGES), Augmentation(), 0, root=tmp_path, progress=False
    )
    cached = run(policy, make_source(features=views), tmp_path / "cached")
    decoded = run(make_policy("frozen"), make_source(), tmp_path / "decoded")
    np.testing.assert_allclose(cached, decoded, rtol=2e-3)
