"""Mixed precision is the loop's business: frozen features and actions stay in full precision."""

import pytest
import torch
from toy_batches import frames

from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.training.ranks import Ranks


def test_what_was_encoded_under_autocast_serves_outside_of_it(make_policy):
    policy, batch = make_policy(gripper_loss="l1"), frames(2)
    device = torch.device("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        words = policy._features.words(batch, device).values
        patches = policy._features.patches(batch, False, device)
        under = policy.select_action(batch)
    assert words.dtype == patches.dtype == under.dtype == torch.float32
    policy.reset()
    outside = policy.select_action(batch)
    assert torch.equal(patches, policy._features.patches(batch, False, device))
    assert torch.allclose(under, outside, atol=0.05)


def test_the_learning_rate_of_a_long_training_never_dies():
    config = EFVLAConfig(device="cpu")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=config.optimizer_lr)
    scheduler = config.get_scheduler_preset().build(optimizer, num_training_steps=100_000)
    rates = [scheduler.lr_lambdas[0](step) * config.optimizer_lr for step in (2_000, 40_000, 99_999)]
    assert rates[0] == pytest.approx(config.optimizer_lr, rel=0.02)
    assert rates[1:] == pytest.approx([config.optimizer_lr / 100] * 2)


def test_our_trainer_keeps_to_full_precision_whatever_accelerate_is_set_to(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert Ranks(cpu=True).accelerator.mixed_precision == "no"
