"""Where the layers of policies look: the weights are those that forward used, and the shares are what they say."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fovea.cli import main
from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.errors import FoveaError
from fovea.lens.attention import (
    Gaze,
    LayerMaps,
    in_place,
    in_whole_picture,
    mean_interval,
    shares,
    summarise,
)
from fovea.lens.word_maps import PolicyMaps
from fovea.nn import CrossAttention
from fovea.nn.attention import merge_heads, split_heads
from fovea.pipelines import attend
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.focus_vla.modeling_focus_vla import FocusVLAPolicy
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy

TASK = "pick up the milk and place it in the basket"


def ef_vla(**changes):
    torch.manual_seed(0)
    encoder = TinyEncoder(TinyConfig.tiny(image_size=32), TASK.split()).freeze()
    return EFVLAPolicy(EFVLAConfig.tiny(device="cpu", **changes), encoder=encoder).eval()


def focus_vla(**changes):
    torch.manual_seed(0)
    return FocusVLAPolicy(FocusVLAConfig.tiny(device="cpu", **changes)).eval()


def vla_adapter(**changes):
    torch.manual_seed(0)
    policy = VLAAdapterPolicy(VLAAdapterConfig.tiny(device="cpu", **changes)).eval()
    for name, parameter in policy.named_parameters():  # gates of zero would make every map uniform
        if "gate" in name:
            torch.nn.init.constant_(parameter, 1.0)
    return policy


def batch_of(observations):
    """What a preprocessor would make of them, nothing being scaled."""
    (one,) = observations
    pictures = {
        key: torch.from_numpy(one[key].copy()).permute(2, 0, 1)[None] for key in one if "images" in key
    }
    return {
        **pictures,
        "observation.state": torch.from_numpy(one["observation.state"])[None],
        "task": [one["task"]],
    }


def gaze(policy, name="toy"):
    return Gaze(
        SimpleNamespace(
            policy=policy, identity=name, image_size=32, title=name, batch=batch_of, preprocessor=None
        ),
        name,
    )


def frame(batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pictures = {
        f"observation.images.{key}": torch.randint(
            0, 256, (batch, 3, 32, 32), dtype=torch.uint8, generator=generator
        )
        for key in ("image", "image2")
    }
    return {
        **pictures,
        "observation.state": torch.rand(batch, 8, generator=generator),
        "task": [TASK] * batch,
    }


@pytest.mark.parametrize("queries", [1, 9])  # fewer and more than the tokens: both ways of computing
def test_cross_attention_hands_out_the_weights_that_it_used(queries):
    torch.manual_seed(0)
    attention = CrossAttention(16, 24, heads=2)
    x, context = torch.randn(3, queries, 16), torch.randn(3, 7, 24)
    mask = torch.rand(3, 7) > 0.3
    mask[:, 0] = True
    maps: list[torch.Tensor] = []
    out = attention(x, context, mask, maps)
    (weights,) = maps
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, queries))
    assert (weights[~mask[:, None, None].expand_as(weights)] == 0).all()
    values = split_heads(attention.value(context), 2)
    torch.testing.assert_close(attention.out(merge_heads(weights @ values)), out)
    torch.testing.assert_close(attention(x, context, mask), out)


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_readouts_look_with_weights_that_sum_to_one(fusion):
    policy = ef_vla(fusion=fusion)
    batch = frame(2)
    found = policy.pooling_attention(batch)
    assert found.weights.shape == (2, 2, 1, 2, 2, 4, 16)  # blocks, B, T, cameras, heads, readouts, patches
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 2, 1, 2, 2, 4))
    inputs = policy._inputs(batch, time=False)
    torch.testing.assert_close(policy.model.tokens(*inputs, []), policy.model.tokens(*inputs))


def word_maps(policy):
    maps = policy.config.fusion == "early"
    actor = SimpleNamespace(
        policy=policy,
        identity="toy",
        image_size=32,
        title="toy",
        batch=batch_of,
        preprocessor=None,
        has_maps=maps,
    )
    return PolicyMaps(actor, "toy")


def test_word_maps_of_a_policy_are_sharpened_by_what_it_learned():
    policy = ef_vla()
    with torch.no_grad():
        policy.model.fusion.log_scale.copy_(torch.tensor([20.0, 5.0]).log())
    maps = word_maps(policy)
    assert maps.temperatures == pytest.approx({"agentview": 0.05, "wrist": 0.2})
    batch = frame()
    looked = maps.look(observation_of(batch))
    words = policy.encoder.encode_text([TASK]).values[0, : len(TASK.split())]
    for name, key, scale in (("agentview", "image", 20), ("wrist", "image2", 5)):
        patches = policy.encoder.encode_image(batch[f"observation.images.{key}"]).values[0]
        expected = (words @ patches.T * scale).softmax(-1).unflatten(-1, (4, 4))
        np.testing.assert_allclose(looked[name], expected.numpy(), rtol=1e-3, atol=1e-6)


def test_words_that_a_policy_does_not_see_have_no_map():
    looked = word_maps(ef_vla(word_positions=4)).look(observation_of(frame()))
    assert np.isfinite(looked["wrist"][:4]).all()
    assert np.isnan(looked["wrist"][4:]).all()
    with pytest.raises(FoveaError, match="fovea attend"):
        word_maps(ef_vla(fusion="late"))


def test_early_fusion_chains_readouts_to_words_and_words_to_patches():
    policy = ef_vla()
    batch = frame()
    patches, words, proprio = policy._inputs(batch, time=False)
    maps: list[list[torch.Tensor]] = []
    policy.model.tokens(patches, words, proprio, maps)
    (first, _), _ = maps  # of the first camera
    to_patches = policy.attention(batch).weights[0, 0, 0].flatten(1)
    chained = policy.pooling_attention(batch).weights[0, 0, 0, 0]
    torch.testing.assert_close(chained, first[0] @ to_patches)


def test_top_k_leaves_the_other_patches_without_weight():
    policy = focus_vla(top_k=5)
    observation = observation_of(frame())
    maps = gaze(policy).look(observation)
    assert maps.weights.shape[1:] == (2, 4, 4)
    np.testing.assert_allclose(maps.weights.sum((1, 2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(maps.kept, 5 / 32, rtol=1e-5)
    everything = gaze(focus_vla(top_k=None)).look(observation)
    np.testing.assert_allclose(everything.kept, 1)


def test_states_that_are_read_one_position_early_are_put_back():
    weights = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    assert in_place(weights, early=True).tolist() == [pytest.approx([0.3, 0.2, 0.1, 0.0])]
    assert in_place(weights, early=False) is weights


def test_mixed_attention_gives_vision_a_part_only():
    maps = gaze(vla_adapter()).look(observation_of(frame()))
    assert (maps.weights.sum((1, 2, 3)) < 0.99).all()
    assert gaze(vla_adapter()).kind == "mixed"


def test_a_look_names_what_decides_what_is_seen():
    assert gaze(vla_adapter()).choices == "mixed, scalar gate"
    assert gaze(focus_vla(top_k=3)).choices == "cascaded, top 3, element gate, vlm+ds"
    assert gaze(focus_vla(top_k=32, gate="none", representation="ds")).choices == "cascaded, top 32, ds"
    assert gaze(ef_vla()).choices == "pooling"


def test_policies_of_one_name_are_numbered_on_sheets():
    first, other, again = gaze(focus_vla(top_k=3)), gaze(vla_adapter()), gaze(focus_vla(top_k=3))
    assert attend.captions([first, other]) == [
        "toy, cascaded, top 3, element gate, vlm+ds",
        "toy, mixed, scalar gate",
    ]
    assert [caption[:3] for caption in attend.captions([first, other, again])] == ["1: ", "2: ", "3: "]


def test_maps_are_those_of_the_forward_pass_that_acts():
    policy = focus_vla()
    batch = frame()
    maps: list[torch.Tensor] = []
    actions = policy.predict(batch, maps)
    torch.testing.assert_close(policy.predict(batch), actions)
    looked = gaze(policy).look(observation_of(batch)).weights
    mean = torch.stack(maps)[:, 0].mean((1, 2)).unflatten(-1, (2, 4, 4)).detach().numpy()
    np.testing.assert_allclose(looked, mean, rtol=1e-4, atol=1e-6)


def observation_of(batch):
    pictures = {key: batch[key][0].permute(1, 2, 0).numpy() for key in batch if "images" in key}
    return {**pictures, "observation.state": batch["observation.state"][0].numpy(), "task": TASK}


def test_a_uniform_gaze_has_the_area_and_one_at_the_milk_all_of_it(milk):
    uniform = np.full((3, 2, 16, 16), 1 / 512, np.float32)
    found = shares(milk[0], LayerMaps(uniform * 0.5, np.ones(3, np.float32), ("agentview", "wrist")))
    assert found["vision"] == pytest.approx([0.5] * 3)
    for kind in ("objects", "target", "destination"):
        assert found[kind] == pytest.approx([found["area"][kind]] * 3, rel=1e-4)
    assert found["area"]["objects"] == pytest.approx(found["area"]["target"] + found["area"]["destination"])
    patches = milk[0].mask("agentview", ["milk_1"]).reshape(16, 8, 16, 8).mean((1, 3))
    weights = np.zeros((1, 2, 16, 16), np.float32)
    weights[0, 0].flat[patches.argmax()] = 1
    found = shares(milk[0], LayerMaps(weights, np.ones(1, np.float32), ("agentview", "wrist")))
    assert found["target"] == pytest.approx([patches.max()])
    assert found["cameras"]["agentview"]["share"] == [1]
    assert found["cameras"]["wrist"]["objects"] == [0]


def test_summary_is_over_scenes_not_over_moments(milk):
    def scene(*objects):
        maps = LayerMaps(
            np.full((1, 2, 2, 2), 1 / 8, np.float32), np.ones(1, np.float32), ("agentview", "wrist")
        )
        return [shares(milk[0], maps) | {"objects": [value]} for value in objects]

    found = summarise([scene(0.1, 0.3), scene(0.4)])
    assert found["objects"]["mean"] == pytest.approx(0.3)  # of 0.2 and 0.4
    assert mean_interval([0.5]) == {"mean": 0.5, "interval": None}
    low, high = mean_interval([1.0, 2.0, 3.0])["interval"]
    assert (low, high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)  # t with two degrees of freedom


def test_another_kind_of_policy_is_refused():
    with pytest.raises(FoveaError, match="got act"):
        gaze(SimpleNamespace(config=SimpleNamespace(type="act")))


@pytest.fixture
def toys(milk, monkeypatch):
    """Checkpoints by name, and the scene of `milk` wherever one looks."""
    policies = {"mixed": vla_adapter(), "cascaded": focus_vla(), "readouts": ef_vla()}
    monkeypatch.setattr(attend, "load_gaze", lambda path: gaze(policies[str(path)], str(path)))
    looked = []

    def take(starts, sizes, count):
        for start in starts:
            looked.append(start)
            yield milk[:count]

    monkeypatch.setattr(attend, "take_moments", take)
    return looked


def test_the_verb_compares_policies_on_the_same_scenes(toys, tmp_path, capsys):
    line = [
        "attend",
        "mixed",
        "--against",
        "cascaded,readouts",
        "--task",
        "7",
        "--scenes",
        "1",
        "--moments",
        "2",
    ]
    line += ["--out", str(tmp_path)]
    assert main([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    mixed, cascaded, readouts = result["policies"]
    assert [policy["kind"] for policy in result["policies"]] == ["mixed", "cascaded", "pooling"]
    assert mixed["vision"]["mean"] < cascaded["vision"]["mean"] == readouts["vision"]["mean"] == 1
    gain = cascaded["objects"]["mean"] - mixed["objects"]["mean"]
    assert cascaded["difference"]["mean"] == pytest.approx(gain, abs=2e-4)
    assert all((tmp_path / name).is_file() for name in result["sheets"])
    assert main(line) == 0
    out = capsys.readouterr().out
    assert f"| cascaded | {cascaded['choices']} | 100.0% |" in out
    assert len(toys) == 1  # the second run found everything in its records


def test_a_checkpoint_is_needed_and_is_not_compared_with_itself(capsys):
    assert main(["attend"]) == 2
    assert "--checkpoint" in capsys.readouterr().err
    assert main(["attend", "a", "--against", "a"]) == 2
    assert "other checkpoints" in capsys.readouterr().err
    assert main(["attend", "nowhere", "--task", "0"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_what_a_cropping_policy_sees_lies_in_the_middle_of_the_picture():
    weights = np.random.default_rng(0).random((3, 2, 4, 6)).astype(np.float32)
    assert in_whole_picture(weights, 1.0) is weights
    placed = in_whole_picture(weights, 0.81)
    assert np.allclose(placed.sum((2, 3)), weights.sum((2, 3)), atol=1e-5)  # nothing is lost
    half = in_whole_picture(np.ones((4, 4)), 0.25)  # the middle half of each side
    assert np.allclose(half, np.pad(np.full((2, 2), 4.0), 1))
