"""EF-VLA through LeRobot's front doors: discovery, factories, processors, checkpoints."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_batches import frames, windows

from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla import features_ef_vla
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy


@pytest.fixture
def toy_registry(encoder, monkeypatch):
    """The registry hands out the toy encoder."""
    monkeypatch.setattr(features_ef_vla, "create_encoder", lambda name, tap=None: encoder)


def stats() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(2, 8)), np.array([0.5, 0.4, 0.3, 0.01, 0.02, 0.2, 1.0])
    return {
        "observation.state": {"mean": state[0], "std": np.abs(state[1]) + 0.1},
        "action": {"q01": -action, "q99": action * 0.8, "mean": action, "std": action},
    }


def test_lerobot_discovers_builds_trains_saves_and_loads_it(toy_registry, tmp_path):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_policy, make_pre_post_processors
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    assert get_policy_class("ef_vla") is EFVLAPolicy
    config = PreTrainedConfig.get_choice_class("ef_vla").tiny(input_features={}, output_features={})
    picture = {"dtype": "video", "shape": (32, 32, 3), "names": ["height", "width", "channels"]}
    meta = SimpleNamespace(
        features={
            "observation.images.image": picture,
            "observation.images.image2": picture,
            "observation.state": {"dtype": "float32", "shape": (8,), "names": None},
            "action": {"dtype": "float32", "shape": (7,), "names": None},
        },
        stats=stats(),
    )
    policy = make_policy(config, ds_meta=meta)
    pre, post = make_pre_post_processors(config, dataset_stats=meta.stats)
    loss, _ = policy(pre(windows(policy, 2)))
    loss.backward()
    policy.save_pretrained(tmp_path)
    pre.save_pretrained(tmp_path)
    post.save_pretrained(tmp_path)

    config = PreTrainedConfig.from_pretrained(tmp_path)
    config.pretrained_path = tmp_path
    loaded = make_policy(config, ds_meta=meta)
    pre2, post2 = make_pre_post_processors(config, pretrained_path=str(tmp_path))
    assert not loaded.training
    policy.eval()
    expected, got = (
        after(p.select_action(before(frames(2))))
        for p, before, after in ((policy, pre, post), (loaded, pre2, post2))
    )
    assert got.shape == (2, 7)
    assert torch.equal(got, expected)


def test_processors_scale_what_they_should(make_policy):
    from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors

    policy = make_policy()
    pre, post = make_ef_vla_pre_post_processors(policy.config, stats())
    batch = frames(2)
    state = pre(dict(batch))["observation.state"]
    raw, mean, std = (
        batch["observation.state"],
        *(torch.tensor(stats()["observation.state"][name], dtype=torch.float32) for name in ("mean", "std")),
    )
    assert torch.allclose(state[:, 3:6], raw[:, 3:6], atol=1e-6)  # the rotation stays a rotation
    kept = [0, 1, 2, 6, 7]
    assert torch.allclose(state[:, kept], ((raw - mean) / std)[:, kept], atol=1e-5)
    action = torch.tensor([[0.5, 0.0, -0.3, 0.01, 0.02, 0.2, -1.0]])
    scaled = pre({**batch, "action": action})["action"]
    # by the larger of |q01|, |q99|, at least 0.05 of the largest motion; zero stays zero; the gripper stays
    assert torch.allclose(scaled, torch.tensor([[1.0, 0.0, -1.0, 0.4, 0.8, 1.0, -1.0]]), atol=1e-5)
    assert torch.allclose(post(scaled), action, atol=1e-6)


def test_a_tau_beyond_its_cap_is_refused_before_training_and_not_when_it_is_loaded(make_policy):
    with pytest.raises(FoveaError, match=r"temperature >= 1 / max_scale = 0.1"):
        make_policy(max_scale=10.0, temperature=None)  # the encoder's own, filled in late
    with pytest.raises(FoveaError, match="temperature >= 1 / max_scale"):
        make_policy(temperature=0.005)
    assert make_policy(max_scale=10.0, temperature=None, fusion="late").config.max_scale == 10.0
    trained = make_policy().config
    assert replace(trained, temperature=0.005).temperature == 0.005  # an older checkpoint's


def test_a_deleted_added_or_misshapen_weight_is_refused_by_name(make_policy, toy_registry, tmp_path):
    make_policy().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    changed = dict(weights)
    del changed["model.input.bias"]
    changed["model.extra"] = torch.zeros(1)
    changed["model.fusion.log_scale"] = torch.zeros(3)
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(FoveaError) as caught:
        EFVLAPolicy.from_pretrained(tmp_path)
    for words in (
        "missing model.input.bias",
        "unexpected model.extra",
        "model.fusion.log_scale has shape (3,)",
    ):
        assert words in str(caught.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FoveaError, match="no such file"):
        EFVLAPolicy.from_pretrained(tmp_path)


def test_a_checkpoint_refuses_another_encoder(make_policy, tmp_path, monkeypatch):
    make_policy().save_pretrained(tmp_path)
    torch.manual_seed(9)
    other = TinyEncoder(TinyConfig.tiny(image_size=32), ["milk"])
    with pytest.raises(FoveaError, match="expected the encoder this policy was trained with"):
        EFVLAPolicy.from_pretrained(tmp_path, config=EFVLAConfig.from_pretrained(tmp_path), encoder=other)
    monkeypatch.setattr(features_ef_vla, "create_encoder", lambda name, tap=None: other)
    policy = EFVLAPolicy.from_pretrained(tmp_path)  # the encoder is not needed yet
    with pytest.raises(FoveaError, match="train the policy anew"):
        policy.select_action(frames(1))


def test_the_configuration_on_disk_is_plain_and_holds_no_path(make_policy, tmp_path, encoder):
    make_policy().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    record = json.loads(text)
    assert record["type"] == "ef_vla"
    assert record["encoder_identity"] == encoder.identity
    assert "/" not in text
    assert EFVLAConfig.from_pretrained(tmp_path) == make_policy().config
