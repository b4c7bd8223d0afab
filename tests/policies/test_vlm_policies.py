"""VLA-Adapter and FocusVLA: learning, acting, counts, and what every choice of the ablation does."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from toy_batches import CAMERAS, TASKS, frames, pick

from fovea.encoders.tiny import TinyEncoder
from fovea.errors import FoveaError
from fovea.pipelines.describe import count, describe_checkpoint, describe_policy
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.focus_vla.modeling_focus_vla import FocusVLAPolicy
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy
from fovea.policies.vlm_policy.inputs import middle
from fovea.policies.vlm_policy.network import ChunkNetwork, VLMFacts
from fovea.policies.vlm_policy.policy import VLMPolicy
from fovea.vlm.config import VLMConfig

Make = Callable[..., VLMPolicy]
KINDS = {"focus_vla": (FocusVLAConfig, FocusVLAPolicy), "vla_adapter": (VLAAdapterConfig, VLAAdapterPolicy)}
LADDER: list[dict[str, Any]] = [
    {"attention": "mixed", "gate": "none", "top_k": None, "representation": "vlm"},
    {
        "attention": "mixed",
        "gate": "scalar",
        "top_k": 8,
        "separate_projections": False,
        "representation": "vlm",
    },
    {"attention": "mixed", "gate": "element", "pool_vision": True, "top_k": None},
    {"attention": "cascaded", "gate": "none", "top_k": None, "representation": "ds"},
    {"attention": "cascaded", "gate": "head", "top_k": 8, "top_k_scope": "shared"},
    {"attention": "cascaded", "gate": "scalar", "top_k": 8, "top_k_scope": "camera", "rotary": "true"},
    {"attention": "parallel", "gate": "element", "dim_model": 48},
    {"representation": "vggt", "extra_width": 12},
    {"chunk_queries": "zeros", "rotary": "true"},
]


@pytest.fixture
def make(encoder: TinyEncoder) -> Make:
    def build(kind: str = "focus_vla", **changes: Any) -> VLMPolicy:
        torch.manual_seed(1)
        config_class, policy_class = KINDS[kind]
        return policy_class(config_class.tiny(vlm=VLMConfig.toy(patch_pool=1), **changes), encoder=encoder)

    return build


def samples(policy: VLMPolicy, count: int, seed: int = 0) -> dict[str, Any]:
    """Frames with cached features and their chunks, one of them padded."""
    config, generator = policy.config, torch.Generator().manual_seed(seed)
    rows, columns = config.vlm.encoder_grid
    shape = (count, 1, rows * columns, config.vlm.feature_width)
    batch: dict[str, Any] = {
        f"observation.features.{name}": torch.randn(shape, generator=generator).half() for name in CAMERAS
    }
    batch["observation.state"] = torch.rand(count, 1, 8, generator=generator) * 2 - 1
    batch["action"] = torch.rand(count, config.chunk_size, 7, generator=generator) * 2 - 1
    batch["action"][..., -1] = batch["action"][..., -1].sign()
    batch["action_is_pad"] = torch.zeros(count, config.chunk_size, dtype=torch.bool)
    batch["action_is_pad"][0, -3:] = True
    batch["task"] = [TASKS[i % 3] for i in range(count)]
    if config.representation == "vggt":
        batch[config.extra_key] = torch.randn(count, 10, config.extra_width, generator=generator)
    return batch


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_a_batch_by_heart(make, kind):
    policy = make(kind)
    batch = samples(policy, 4)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss, parts = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert parts.keys() == {"l1_motion", "l1_gripper", "weight"}


@pytest.mark.parametrize("changes", LADDER, ids=lambda c: "-".join(map(str, c.values())))
def test_every_rung_of_the_ladder_trains_all_its_parameters(make, changes):
    policy = make(**changes)
    for parameter in policy.model.parameters():  # gates at zero would hide what is behind them
        torch.nn.init.normal_(parameter, std=0.2)
    policy(samples(policy, 3))[0].backward()
    idle = [name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle or changes.get("representation") in ("vggt", "ds")  # the VLM's last states may go unread
    assert torch.isfinite(policy.predict_action_chunk(samples(policy, 2))).all()


def test_loss_counts_every_real_action_once_and_padding_never(make):
    policy = make()
    batch = samples(policy, 3)
    each, _ = policy(batch, reduction="none")
    real = (~batch["action_is_pad"]).sum(1)
    mean, _ = policy(batch)
    assert torch.allclose(mean, (each * real).sum() / real.sum(), atol=1e-6)
    batch["action"][0, -3:] = 7.0
    assert torch.equal(policy(batch, reduction="none")[0], each)
    batch["action"][1, 0, 0] = 1.0
    clipped = policy(batch, reduction="none")[0]
    batch["action"][1, 0, 0] = 9.0  # beyond q99: clipped
    assert torch.equal(policy(batch, reduction="none")[0], clipped)
    batch["action_is_pad"][:] = True
    assert policy(batch)[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_batch_does_not_matter_and_pictures_give_what_their_features_give(make, kind, encoder):
    policy = make(kind).eval()
    batch = frames(3) | {"observation.state": torch.rand(3, 8)}
    actions = policy.predict_action_chunk(batch)
    turned = policy.predict_action_chunk(pick(batch, [2, 0, 1]))
    assert torch.allclose(turned, actions[[2, 0, 1]], atol=1e-5)
    cached = {
        f"observation.features.{c}": encoder.encode_image(batch.pop(f"observation.images.{c}")).values
        for c in CAMERAS
    }
    assert torch.allclose(policy.predict_action_chunk(batch | cached), actions, atol=1e-5)


def test_padded_vision_tokens_change_nothing(make):
    policy = make(top_k=20).eval()
    batch = samples(policy, 2)
    mask = torch.ones(2, 32, dtype=torch.bool)
    mask[:, 16:] = False  # the second camera is missing
    batch["observation.vlm.mask"] = mask
    expected = policy.predict(batch)
    batch["observation.features.image2"] = batch["observation.features.image2"] * 30
    assert torch.allclose(policy.predict(batch), expected, atol=1e-5)
    assert (policy.attention(batch).weights[..., 16:] == 0).all()


def test_chunks_are_played_open_loop_and_only_episodes_at_their_end_are_looked_at(make, monkeypatch):
    policy = make(chunk_size=6, n_action_steps=3).eval()
    seen: list[int] = []
    encode = policy.vlm.encode_images
    monkeypatch.setattr(policy.vlm, "encode_images", lambda x: (seen.append(len(x)), encode(x))[1])
    states = [policy.new_episode() for _ in range(2)]
    chunks = policy.predict_action_chunk(frames(2))
    seen.clear()
    first = [policy.act(states, frames(2, seed=step)) for step in (0, 1)]
    assert torch.allclose(torch.stack(first, 1), chunks[:, :2], atol=1e-5)
    states.append(policy.new_episode())  # a third episode begins
    third = policy.act(states, frames(3, seed=2))
    assert torch.allclose(third[:2], chunks[:, 2], atol=1e-5)
    alone = policy.predict_action_chunk(pick(frames(3, seed=2), [2]))
    assert torch.allclose(third[2], alone[0, 0], atol=1e-5)
    policy.act(states, frames(3, seed=3))
    assert seen == [2, 1, 1, 2]  # two begin; the third; it alone, asked by this test; the first two again
    assert [len(policy.act_blind(state)) for state in states] == [2, 2, 1]
    assert [len(policy.act_blind(state)) for state in states] == [0, 0, 0]
    with pytest.raises(FoveaError, match="3 frames"):
        policy.act(states, frames(2))


def test_the_rest_of_a_chunk_is_played_without_looking(make):
    policy = make(chunk_size=6, n_action_steps=3).eval()
    state = policy.new_episode()
    first = policy.act([state], frames(1))
    together = torch.cat([first, policy.act_blind(state)])
    assert torch.equal(together, policy.predict_action_chunk(frames(1))[0, :3])


def test_reset_forgets_all_environments_or_some(make):
    policy = make(chunk_size=6, n_action_steps=3).eval()
    played = policy.select_action(frames(2, seed=0))
    policy.reset([1])
    again = policy.select_action(frames(2, seed=0))
    assert torch.allclose(again[1], played[1], atol=1e-5)  # begins its chunk anew
    assert not torch.allclose(again[0], played[0], atol=1e-5)  # goes on with it
    policy.reset()
    assert torch.allclose(policy.select_action(frames(2, seed=0)), played, atol=1e-5)
    with pytest.raises(FoveaError, match="environments 0 to 1"):
        policy.reset([2])


def test_learned_chunk_queries_tell_actions_apart_and_zeros_do_not(make):
    batch = frames(1)
    learned, zeros = (
        make("vla_adapter", gripper="as_is", chunk_queries=kind).eval().predict_action_chunk(batch)
        for kind in ("learned", "zeros")
    )
    assert not torch.allclose(learned[:, 1:], learned[:, :-1], atol=1e-6)
    assert torch.allclose(zeros[:, 1:], zeros[:, :-1], atol=1e-6)  # the release's base block does this
    pro = make("vla_adapter", variant="pro", compat=True).eval().predict(batch)
    assert not torch.allclose(pro[:, 1:], pro[:, :-1], atol=1e-7)  # positions tell them apart
    noisy = make("vla_adapter", compat=True).train()
    assert not torch.equal(noisy.predict(batch), noisy.predict(batch))  # noise in training only


@pytest.mark.parametrize("gripper", ["signed", "one_is_open"])
def test_the_gripper_opens_at_minus_one_whatever_the_network_means(make, gripper):
    policy = make("vla_adapter", gripper=gripper)
    batch = samples(policy, 2)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-2)
    batch["action"][0, :, -1], batch["action"][1, :, -1] = -1.0, 1.0
    batch["action_is_pad"][:] = False
    for _ in range(60):
        optimizer.zero_grad()
        policy(batch)[0].backward()
        optimizer.step()
    played = policy.predict_action_chunk(batch)
    assert torch.equal(played[..., -1], batch["action"][..., -1])
    raw = policy.eval().predict(batch)[..., -1].mean(1)
    expected = [-1.0, 1.0] if gripper == "signed" else [1.0, 0.0]
    assert torch.allclose(raw, torch.tensor(expected), atol=0.3)


def test_attention_maps_are_of_every_layer_and_camera(make):
    policy = make(top_k=5)
    maps = policy.attention(frames(2))
    assert maps.weights.shape == (2, 2, 4, 6, 32)
    assert maps.grid == (4, 4)
    assert maps.cameras == ["observation.images.image", "observation.images.image2"]
    assert ((maps.weights > 0).sum(-1) == 5).all()
    assert make(pool_vision=True).attention(frames(2)).weights.shape[-1] == 8


@pytest.mark.parametrize("positions", ["none", "learned"])
def test_raw_features_say_where_they_are_if_they_are_told(make, positions):
    policy = make(representation="ds", feature_positions=positions, top_k=None).eval()
    states = policy.states(samples(policy, 3))
    order = torch.randperm(states.features.shape[1], generator=torch.Generator().manual_seed(0))
    moved = replace(states, features=states.features[:, order])
    before, after = (policy.model(its, torch.zeros(3, 8)) for its in (states, moved))
    assert torch.allclose(before, after, atol=1e-5) == (positions == "none")
    louder = replace(states, features=states.features * 10)
    assert torch.allclose(before, policy.model(louder, torch.zeros(3, 8)), atol=1e-3) == (
        positions == "learned"
    )


def test_raw_features_are_placed_where_the_encoder_is_the_small_one():
    assert FocusVLAConfig.preset("tiny").feature_positions == "learned"
    assert FocusVLAConfig.preset("full").feature_positions == "none"
    batch = VLMConfig.toy(feature_width=8)
    assert FocusVLAConfig.tiny(states_from="batch", vlm=batch).feature_positions == "none"


def test_a_policy_from_before_features_were_placed_still_loads(make, tmp_path, encoder):
    policy = make(feature_positions="none")
    policy.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["feature_positions"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    (tmp_path / "checksums.json").unlink()
    loaded = FocusVLAPolicy.from_pretrained(tmp_path, encoder=encoder)
    assert loaded.config.feature_positions == "none"
    batch = frames(2)
    assert torch.equal(loaded.predict_action_chunk(batch), policy.eval().predict_action_chunk(batch))


def test_half_of_the_tokens_is_half_whatever_the_cameras_and_the_pooling():
    two = FocusVLAConfig.preset("tiny")
    one = {key: its for key, its in two.input_features.items() if key != two.camera_keys[0]}
    assert FocusVLAConfig.preset("tiny", input_features=one).top_k == 32
    assert FocusVLAConfig.preset("tiny", pool_vision=True).top_k == 16
    assert FocusVLAConfig.preset("tiny", vlm={"patch_pool": 1}).top_k == 256
    config = FocusVLAConfig(device="cpu")
    config.input_features, config.output_features = one, two.output_features  # LeRobot, from a data set
    assert FocusVLAPolicy(config).config.top_k == 32
    assert FocusVLAConfig(top_k=64, input_features=one).top_k == 64
    vlm = VLMConfig(encoder="timm/test_vit", weights="random", words="learned")
    told = describe_policy(FocusVLAConfig(vlm=vlm))["sizes"]
    assert (told["vision_tokens"], told["top_k"]) == (50, 25)


@pytest.mark.parametrize(
    ("config", "policy", "queries"),
    [
        (VLAAdapterConfig.preset("full"), 102_129_695, 50_176),
        (VLAAdapterConfig.preset("full", variant="pro", compat=True), 217_864_223, 0),
        (FocusVLAConfig.preset("full"), 239_060_871, 50_176),
    ],
    ids=["base", "pro", "focus"],
)
def test_full_sizes_have_the_papers_numbers_of_parameters(config, policy, queries):
    with torch.device("meta"):
        network = ChunkNetwork(config, VLMFacts(24, 896, 2176, (16, 16)))
    learned = 0 if network.stem.queries is None else network.stem.queries.numel()
    assert learned == queries
    assert count(network) - learned - count(network.proprio) == policy


def test_a_policy_from_before_features_were_placed_is_described_without_places(tmp_path):
    config = FocusVLAConfig.preset("tiny", feature_positions="none")
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["feature_positions"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert describe_checkpoint(tmp_path) == describe_policy(config)
    assert describe_policy(config) != describe_policy(FocusVLAConfig.preset("tiny"))


def test_what_does_not_fit_is_refused(make):
    for changes, message in (
        ({"n_action_steps": 9}, "n_action_steps <= chunk_size"),
        ({"n_obs_steps": 2}, "one frame"),
        ({"n_heads": 5}, "n_heads to divide"),
        ({"gate": "wide"}, "gate among"),
        ({"top_k": 0}, "top_k > 0"),
        ({"top_k": 1, "top_k_scope": "camera"}, "one token a camera"),
        ({"attention": "mixed", "separate_projections": False, "dim_model": 64}, "variant=pro"),
        ({"states_from": "batch", "vlm": VLMConfig.toy()}, "feature_width"),
        (
            {
                "states_from": "batch",
                "vlm": VLMConfig.toy(feature_width=8),
                "feature_positions": "learned",
            },
            "nobody says on what grid",
        ),
        ({"feature_positions": "fixed"}, "feature_positions among none, learned"),
        ({"dim_model": 34, "n_heads": 2}, "that 4 divides with feature_positions=learned, .* got 34"),
    ):
        with pytest.raises(FoveaError, match=message):
            FocusVLAConfig.tiny(**changes)
    with pytest.raises(FoveaError, match="a preset among tiny, full"):
        FocusVLAConfig.preset("huge")
    policy = make()
    batch = samples(policy, 2)
    with pytest.raises(FoveaError, match="one frame and its chunk"):
        policy(batch | {"action": batch["action"][:, :3]})
    with pytest.raises(FoveaError, match="one instruction"):
        policy(batch | {"task": "pick up the milk"})
    with pytest.raises(FoveaError, match="rename the cameras"):
        policy({key: value for key, value in batch.items() if "image2" not in key})
    with pytest.raises(FoveaError, match=r"observation\.tokens\.vggt"):
        make(representation="vggt").predict(batch)


def test_a_prismatic_vlm_with_lora_learns_from_pictures_and_refuses_cached_features(tmp_path):
    config = FocusVLAConfig.tiny(vlm=VLMConfig.preset("toy_full"), device="cpu", top_k=4)
    assert config.uses_pixels
    policy = FocusVLAPolicy(config)
    batch = frames(2) | {"action": torch.zeros(2, 6, 7)}
    policy(batch)[0].backward()
    trained = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("lora" in name for name in trained)
    assert {"vlm.action_queries", "model.stem.queries"} <= trained
    policy.save_pretrained(tmp_path)
    loaded = FocusVLAPolicy.from_pretrained(tmp_path)
    expected = policy.predict_action_chunk(frames(2))
    assert torch.allclose(loaded.predict_action_chunk(frames(2)), expected, atol=1e-6)
    cached = {f"observation.features.{name}": torch.zeros(2, 16, 8) for name in CAMERAS}
    with pytest.raises(FoveaError, match="expected pictures"):
        policy.predict(batch | cached)
    frozen = FocusVLAConfig.tiny(vlm=VLMConfig.preset("toy_full", trainable="queries"))
    assert not frozen.uses_pixels


def test_the_middle_of_a_picture_is_cut_corner_to_corner():
    ramp = torch.arange(0, 205, 4, dtype=torch.uint8).expand(1, 3, 4, 52)  # 0 to 204
    assert torch.equal(middle(ramp, 1.0), ramp)
    seen = middle(ramp, 0.25)[0, 0, 0].float()  # half of each side: a quarter to three quarters
    assert abs(seen[0] - 51) <= 1
    assert abs(seen[-1] - 153) <= 1
    assert (seen.diff() >= 0).all()


def test_a_policy_that_crops_does_so_when_it_acts_and_not_when_it_learns(make):
    plain, cropping = make().eval(), make(center_crop=0.5)
    batch = frames(2) | {"observation.state": torch.zeros(2, 8)}
    cut = batch | {
        key: middle(value, 0.5) for key, value in batch.items() if key.startswith("observation.images")
    }
    expected = plain.predict(cut)
    assert not torch.allclose(plain.predict(batch), expected, atol=1e-3)
    assert torch.allclose(cropping.eval().predict(batch), expected, atol=1e-6)
    assert torch.allclose(cropping.train().predict(batch), plain.train().predict(batch), atol=1e-6)
    with pytest.raises(FoveaError, match="center_crop"):
        make(center_crop=1.5)
    with pytest.raises(FoveaError, match="cached features, which are of whole"):
        cropping(samples(cropping, 2))
