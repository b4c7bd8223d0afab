"""VLA-Adapter and FocusVLA through LeRobot's front doors: discovery, factories, processors, checkpoints."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_batches import frames

from fovea.errors import FoveaError
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.focus_vla.modeling_focus_vla import FocusVLAPolicy
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy
from fovea.vlm import tiny as vlm_tiny
from fovea.vlm.config import VLMConfig

KINDS = {"focus_vla": (FocusVLAConfig, FocusVLAPolicy), "vla_adapter": (VLAAdapterConfig, VLAAdapterPolicy)}


@pytest.fixture(autouse=True)
def toy_registry(encoder, monkeypatch):
    """The registry hands out the toy encoder."""
    monkeypatch.setattr(vlm_tiny, "create_vision_encoder", lambda name, **options: encoder)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def toy(kind, **changes):
    config_class, policy_class = KINDS[kind]
    torch.manual_seed(1)
    return policy_class(config_class.tiny(device="cpu", vlm=VLMConfig.toy(patch_pool=1), **changes))


def stats(**action) -> dict[str, dict[str, np.ndarray]]:
    low, high = np.array([-0.6, -0.4, 0.0, -0.01, 0.2, -1, -1]), np.array([0.2, 0.4, 0.6, 0.01, 0.2, 1, 1])
    edges = {"min": low * 2, "max": high * 2, "mean": low, "std": high, "q01": low, "q99": high}
    edges |= {"min": np.append(low[:6] * 2, -1), "max": np.append(high[:6] * 2, 1)} | action
    state = {"q01": -np.ones(8), "q99": np.full(8, 3.0), "mean": np.zeros(8), "std": np.ones(8)}
    return {"observation.state": state, "action": edges}


def meta(**action):
    picture = {"dtype": "video", "shape": (32, 32, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.image": picture,
        "observation.images.image2": picture,
        "observation.state": {"dtype": "float32", "shape": (8,), "names": None},
        "action": {"dtype": "float32", "shape": (7,), "names": None},
    }
    return SimpleNamespace(features=features, stats=stats(**action))


def test_lerobot_discovers_builds_trains_saves_and_loads_it(kind, tmp_path):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_policy, make_pre_post_processors
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    assert get_policy_class(kind) is KINDS[kind][1]
    config = PreTrainedConfig.get_choice_class(kind).tiny(
        input_features={}, output_features={}, vlm=VLMConfig.toy(patch_pool=1), device="cpu"
    )
    policy = make_policy(config, ds_meta=meta())
    before, after = make_pre_post_processors(config, dataset_stats=stats())
    loss, _ = policy(before(frames(2) | {"action": torch.zeros(2, 6, 7)}))
    loss.backward()
    for part in (policy, before, after):
        part.save_pretrained(tmp_path)

    config = PreTrainedConfig.from_pretrained(tmp_path)
    assert config == policy.config
    config.pretrained_path = tmp_path
    loaded = make_policy(config, ds_meta=meta())
    pipelines = make_pre_post_processors(config, pretrained_path=str(tmp_path))
    assert not loaded.training
    expected, got = (
        end(p.select_action(begin(frames(2))))
        for p, begin, end in ((policy, before, after), (loaded, *pipelines))
    )
    assert got.shape == (2, 7)
    assert torch.equal(got, expected)
    assert torch.equal(got[:, -1].abs(), torch.ones(2))


def test_quantiles_become_minus_one_and_one_and_the_gripper_stays(kind):
    from lerobot.policies.factory import make_pre_post_processors

    before, after = make_pre_post_processors(toy(kind).config, dataset_stats=stats())
    action = torch.tensor([[0.2, -0.4, 0.3, 0.01, 0.2, 1.0, -1.0], [-0.2, 0.0, 0.6, 0.0, 0.25, 0.0, 1.0]])
    batch = before(frames(2) | {"action": action, "observation.state": torch.full((2, 8), 3.0)})
    expected = torch.tensor([[1.0, -1.0, 0.0, 0.2, 0.0, 1.0, -1.0], [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]])
    assert torch.allclose(batch["action"], expected, atol=1e-5)  # what hardly moves is not blown up
    assert torch.allclose(batch["observation.state"], torch.ones(2, 8), atol=1e-6)
    assert torch.allclose(after(batch["action"]), action, atol=1e-6)


def test_cameras_are_told_apart_by_their_names_not_by_their_order(kind):
    policy = toy(kind)
    turned = toy(kind, input_features=dict(reversed(policy.config.input_features.items())))
    assert torch.equal(turned.select_action(frames(2)), policy.select_action(frames(2)))


def test_smaller_pictures_are_enlarged_to_the_largest_camera_s(kind):
    """One colour a picture: it has the same at any size."""
    colours = torch.randint(0, 256, (2, 3, 1, 1), dtype=torch.uint8)
    small, large = (
        frames(2) | {"observation.images.image2": colours.expand(2, 3, *size)}
        for size in ((24, 40), (32, 32))
    )
    assert torch.equal(toy(kind).select_action(small), toy(kind).select_action(large))


def test_a_last_action_that_is_no_gripper_is_refused_before_training(kind):
    from lerobot.policies.factory import make_policy

    config = KINDS[kind][0].tiny(device="cpu", vlm=VLMConfig.toy(patch_pool=1), pretrained_path=None)
    wide = {"min": np.full(7, -2.0), "max": np.full(7, 90.0)}
    with pytest.raises(FoveaError, match="gripper=as_is"):
        make_policy(config, ds_meta=meta(**wide))


def test_a_deleted_added_or_misshapen_weight_is_refused_by_name(kind, tmp_path):
    toy(kind).save_pretrained(tmp_path)
    (tmp_path / "checksums.json").unlink()
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.head.linear.bias"]
    weights |= {"model.extra": torch.zeros(1), "vlm.action_queries": torch.zeros(3)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(FoveaError) as caught:
        KINDS[kind][1].from_pretrained(tmp_path)
    for words in (
        "missing model.head.linear.bias",
        "unexpected model.extra",
        "vlm.action_queries has shape (3,)",
    ):
        assert words in str(caught.value)


def test_the_configuration_on_disk_is_plain_and_holds_no_path(kind, tmp_path):
    policy = toy(kind)
    policy.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    record = json.loads(text)
    assert record["type"] == kind
    assert record["vlm"]["encoder_identity"] == policy.vlm.vision.identity
    assert str(tmp_path) not in text
