"""Training EF-VLA: the loss looks at what it should and at nothing else."""

import math

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from scipy.spatial.transform import Rotation
from toy_batches import frames, pick, windows

from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.model_ef_vla import EFVLAModel
from fovea.tokens import Tokens

VARIANTS = [
    {},
    {"fusion": "late"},
    {"use_proprio": False},
    {"use_text_pooling": False},
    {"value_positions": "none"},
    {
        "value_positions": "sincos1d",
        "time_positions": "rotary",
        "final_norm": False,
        "pooling_style": "otter",
    },
    {"value_join": "concat", "value_position_width": 16},
    {"fusion": "late", "value_join": "concat", "value_position_width": 16},
    {"gripper_loss": "l1", "word_positions": 5},
    {"value_content_dropout": 0.5, "text_dropout": 0.5},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_learns_a_batch_by_heart(make_policy, changes):
    policy = make_policy(**changes, proprio_noise=0.0).train()
    batch = windows(policy, 2)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss, parts = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.85 * losses[0]
    losses_of = {"l1"} if policy.config.gripper_loss == "l1" else {"l1", "gripper_bce"}
    assert set(parts) == losses_of | {"weight"}
    assert all(isinstance(value, float) for value in parts.values())


def test_padded_actions_never_matter(make_policy):
    policy = make_policy().eval()
    batch = windows(policy, 3)
    loss, _ = policy(batch)
    batch["action"][0, -3:] = 1e6
    assert policy(batch)[0] == loss
    batch["action"][0, -4] = 1e6
    assert policy(batch)[0] > loss


def test_a_window_that_begins_before_its_episode_equals_the_shorter_history(make_policy):
    """LeRobot repeats the first frame and marks it; position 0 must be the first REAL frame, as when acting."""
    policy = make_policy().eval()
    batch = windows(policy, 1)
    padded = {key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()}
    padded["observation.state_is_pad"] = torch.tensor([[True, True, False, False]])
    loss, _ = policy(padded)
    for key in ("observation.state", "observation.features.image", "observation.features.image2"):
        padded[key][:, :2] = 7.0  # whatever is there
    assert torch.equal(policy(padded)[0], loss)
    # the same two frames first, the padding behind them
    moved = {key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()}
    for key in ("observation.state", "observation.features.image", "observation.features.image2"):
        moved[key][:, :2] = batch[key][:, 2:]
    moved["observation.state_is_pad"] = torch.tensor([[False, False, True, True]])
    moved["action"][:, :-2] = batch["action"][:, 2:]
    moved["action_is_pad"][:, :-2] = batch["action_is_pad"][:, 2:]
    assert torch.allclose(policy(moved)[0], loss, atol=1e-6)


def test_reduction_none_gives_one_loss_a_window_and_mean_weighs_actions_equally(make_policy):
    policy = make_policy().eval()
    batch = windows(policy, 3)
    each, _ = policy(batch, reduction="none")
    assert each.shape == (3,)
    alone = torch.stack([policy(pick(batch, [i]))[0] for i in range(3)])
    assert torch.allclose(each, alone, atol=1e-6)
    real = policy.config.n_obs_steps * policy.config.chunk_size
    weights = torch.tensor([real - 6.0, real, real])  # a window's last 3 actions are targets 1 + 2 + 3 times
    assert torch.allclose(policy(batch)[0], (each * weights).sum() / weights.sum(), atol=1e-6)


def test_the_order_of_a_batch_does_not_matter(make_policy):
    policy = make_policy().eval()
    batch = windows(policy, 3)
    order = [2, 0, 1]
    assert torch.allclose(
        policy(batch, reduction="none")[0][order], policy(pick(batch, order), reduction="none")[0], atol=1e-6
    )


def test_cached_patches_never_run_the_picture_tower_and_give_the_same_loss(make_policy, encoder, monkeypatch):
    policy = make_policy().eval()
    cached = windows(policy, 2)
    shown = {key: value for key, value in cached.items() if "features" not in key}
    for name in ("image", "image2"):
        pictures = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
        shown[f"observation.images.{name}"] = pictures.float() / 255  # as LeRobot decodes them
        with torch.no_grad():
            patches = encoder.encode_image(pictures.flatten(0, 1)).values.unflatten(0, (2, 4))
        cached[f"observation.features.{name}"] = patches
    expected, _ = policy(shown)

    def refuse(pictures):
        raise AssertionError("the picture tower ran")

    monkeypatch.setattr(encoder, "encode_image", refuse)
    assert torch.allclose(policy(cached)[0], expected, atol=1e-6)


def test_a_sentence_is_encoded_once(make_policy, encoder, monkeypatch):
    policy = make_policy().eval()
    asked: list[str] = []
    encode = encoder.encode_text
    monkeypatch.setattr(encoder, "encode_text", lambda s: asked.extend(s) or encode(s))
    policy(windows(policy, 3))
    policy(windows(policy, 3, seed=1))
    assert len(asked) == len(set(asked)) == 3


def test_padding_words_never_matter(make_policy):
    """A short instruction gives the same loss alone and beside a long one that makes it padded."""
    policy = make_policy().eval()
    batch = windows(policy, 2)  # the second instruction is the longer one
    together = policy(batch, reduction="none")[0]
    assert torch.allclose(together[0], policy(pick(batch, [0]), reduction="none")[0][0], atol=1e-6)


def test_encoder_is_frozen_and_no_part_of_the_weights(make_policy, encoder):
    policy = make_policy().train()
    assert not any("encoder" in key for key in policy.state_dict())
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    loss, _ = policy({**windows(policy, 1)})
    loss.backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_tau_and_norms_are_exempt_from_weight_decay(make_policy):
    policy = make_policy()
    decayed, free = policy.get_optim_params()
    assert free["weight_decay"] == 0.0
    assert any(parameter is policy.model.fusion.log_scale for parameter in free["params"])
    assert sum(p.numel() for group in (decayed, free) for p in group["params"]) == sum(
        p.numel() for p in policy.parameters()
    )


def test_wrong_batches_are_named(make_policy):
    policy = make_policy()
    good = windows(policy, 2)
    for change, words in [
        ({"task": "pick up the milk"}, "one instruction"),
        ({"task": ["", "x"]}, "one instruction"),
        ({"action": good["action"][:, :4]}, "windows of 4 frames"),
        ({"observation.features.image": good["observation.features.image"][..., :9]}, "one shape of patches"),
        ({"observation.state": good["observation.state"][..., :5]}, "7 or 8 numbers"),
    ]:
        with pytest.raises(FoveaError, match=words):
            policy({**good, **change})
    with pytest.raises(FoveaError, match=r"observation\.images\.image2"):
        policy({key: value for key, value in good.items() if key != "observation.features.image2"})
    with pytest.raises(FoveaError, match="no word-to-patch maps"):
        make_policy(fusion="late").attention(frames(1))


def test_attention_maps_are_distributions_over_the_grid(make_policy):
    policy = make_policy().eval()
    maps = policy.attention(frames(2))
    assert maps.weights.shape == (2, 1, 2, 10, 4, 4)  # 10 words in the longer instruction
    assert maps.mask.sum(1).tolist() == [4, 10]
    assert maps.cameras == ["observation.images.image", "observation.images.image2"]
    assert torch.allclose(maps.weights.sum((-1, -2)), torch.ones(2, 1, 2, 10))
    assert policy.attention(windows(policy, 2)).weights.shape == (2, 4, 2, 10, 4, 4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (EFVLAConfig.preset("otter"), 30_363_322),
        (EFVLAConfig.preset("otter", dim_model=512, n_layers=4), 7_763_130),
        (EFVLAConfig.preset("otter", dim_model=512, n_layers=4, mlp_ratio=4.0), 14_060_730),
        (EFVLAConfig.preset("tiny", encoder_width=128, encoder_grid=(16, 16)), 3_786_902),
        (EFVLAConfig.preset("b32"), 13_885_590),
        (EFVLAConfig.preset("b16"), 13_885_590),
        (EFVLAConfig.preset("l14"), 14_049_430),
        (EFVLAConfig.preset("ef_vla_l14"), 14_049_430),
        (EFVLAConfig(encoder="ViT-L-14/openai", encoder_width=768, encoder_grid=(16, 16)), 14_049_430),
        (EFVLAConfig(encoder="ViT-B-16-SigLIP/webli", encoder_width=768, encoder_grid=(14, 14)), 14_049_430),
    ],
    ids=[
        "otter",
        "table 5 x1",
        "table 5 x4",
        "tiny",
        "b32",
        "b16",
        "l14",
        "ef_vla_l14",
        "by encoder",
        "siglip",
    ],
)
def test_presets_have_the_sizes_of_the_paper(config, expected):
    with torch.device("meta"):
        model = EFVLAModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_poses_need_poses(make_policy):
    six = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(6,))}
    with pytest.raises(FoveaError, match="poses of 10 numbers as actions"):
        make_policy(action_space="se3_relative", gripper_loss="l1", output_features=six)
    ten = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(10,))}
    with pytest.raises(FoveaError, match=r"pose of 10 numbers as observation\.state"):
        make_policy(action_space="se3_relative", gripper_loss="l1", output_features=ten, state_layout="as_is")
    policy = make_policy(action_space="se3_relative", gripper_loss="l1").train()
    with pytest.raises(FoveaError, match="turns LIBERO's changes of pose into poses"):
        policy(windows(policy, 2))
    batch = windows(policy, 2)
    batch["action"] = torch.randn(2, batch["action"].shape[1], 10)
    loss, parts = policy(batch)
    assert torch.isfinite(loss)
    assert set(parts) == {"l1", "weight"}


def rigid(turns: Rotation, places: torch.Tensor) -> np.ndarray:
    """4 x 4 matrices."""
    matrices = np.tile(np.eye(4), (len(places), 1, 1))
    matrices[:, :3, :3], matrices[:, :3, 3] = turns.as_matrix(), places.numpy()
    return matrices


def numbers(matrices: np.ndarray) -> torch.Tensor:
    """Place and the first two rows of the rotation: (..., 4, 4) -> (..., 9)."""
    rows = matrices[..., :2, :3].reshape(*matrices.shape[:-2], 6)
    return torch.from_numpy(np.concatenate([matrices[..., :3, 3], rows], axis=-1)).float()


def test_poses_are_learned_relative_to_the_arm_at_each_frame(make_policy):
    """Frames so far apart that their chunks do not overlap: each asks for the same moves from where the arm is."""
    ten = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(10,))}
    apart = {"obs_stride": 6, "n_action_steps": 6}
    policy = make_policy(action_space="se3_relative", gripper_loss="l1", output_features=ten, **apart).eval()
    moves = rigid(Rotation.random(6, random_state=0), torch.randn(6, 3))
    gripper, batch = torch.rand(6, 1), windows(policy, 3)
    last = policy.model.head.net[-1]
    last.weight.data.zero_()
    last.bias.data.copy_(torch.cat([numbers(moves), gripper], dim=-1).flatten())
    state = batch["observation.state"].flatten(0, 1)
    arm = rigid(Rotation.from_rotvec(state[:, 3:6].numpy()), state[:, :3])
    asked = torch.cat([numbers(arm[:, None] @ moves), gripper.expand(12, 6, 1)], dim=-1)
    batch["action"] = asked.view(3, 24, 10)
    assert policy(batch)[0] < 1e-5


def test_with_a_stride_every_frame_learns_the_actions_that_follow_it(make_policy):
    policy = make_policy(obs_stride=3, gripper_loss="l1").eval()
    for parameter in policy.model.head.net[-1].parameters():
        parameter.data.zero_()
    batch = windows(policy, 2)
    batch["action"] = torch.arange(15.0)[None, :, None].expand(2, 15, 7)
    batch["action_is_pad"][:] = False
    assert policy(batch)[0].item() == pytest.approx(7)  # the mean of 3 t + k, t < 4, k < 6
    batch["action_is_pad"][:, 6:] = True  # left: 0 to 5 for the first frame, 3 to 5 for the second
    assert policy(batch)[0].item() == pytest.approx(3)
    assert policy.config.observation_delta_indices == [-9, -6, -3, 0]
    assert policy.config.action_delta_indices == list(range(-9, 6))


def test_tau_begins_where_the_configuration_or_else_the_encoder_says(make_policy, encoder):
    encoder.temperature = 0.03
    for tau, expected in ((None, 0.03), (0.2, 0.2)):
        scale = make_policy(temperature=tau).model.fusion.log_scale
        assert torch.allclose(scale, torch.full((2,), -math.log(expected)))


QUIET = {"dropout": 0.0, "text_dropout": 0.0, "value_content_dropout": 0.0, "proprio_noise": 0.0}


@pytest.mark.parametrize("field", [None, *QUIET])
def test_chance_has_a_part_in_training_where_it_is_asked_for(make_policy, field):
    policy = make_policy(**QUIET | ({field: 0.5} if field else {}))
    batch = windows(policy, 8)
    assert torch.equal(policy.train()(batch)[0], policy(batch)[0]) is (field is None)
    assert torch.equal(policy.eval()(batch)[0], policy(batch)[0])


def test_the_gripper_weighs_what_the_configuration_says(make_policy):
    policy = make_policy().eval()
    batch = windows(policy, 3)
    once, parts = policy(batch)
    thrice, _ = make_policy(gripper_loss_weight=3.0).eval()(batch)
    assert (thrice - once).item() == pytest.approx(2 * parts["gripper_bce"] / 7, rel=1e-4)


def test_table_5_is_the_default_for_a_clip():
    config = EFVLAConfig(encoder="ViT-L-14/openai")
    assert (config.dim_model, config.n_layers, config.n_heads) == (512, 4, 8)
    assert (config.n_obs_steps, config.chunk_size, config.n_action_steps) == (12, 12, 8)
    assert (config.readouts, config.pooling_heads, config.pooling_blocks) == (4, 8, 2)
    assert (config.text_width, config.vision_width, config.proprio_width) == (128, 512, 64)
    assert (config.temperature, config.max_scale, config.vision) == (0.07, 100.0, "frozen")
    assert EFVLAConfig().dim_model == 256  # our own encoder
    assert EFVLAConfig(dim_model=384).dim_model == 384
    for name in ("b32", "b16", "l14", "tiny"):
        assert EFVLAConfig.preset(f"ef_vla_{name}") == EFVLAConfig.preset(name)
    other = EFVLAConfig.preset("b32", encoder="ViT-B-16-SigLIP/webli")
    assert (other.encoder_width, other.encoder_grid, other.dim_model) == (None, None, 512)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision": "thawed"}, "vision among frozen, finetune, scratch"),
        ({"pool_true_text": True}, "word_positions with pool_true_text"),
        ({"max_scale": 0.0}, "max_scale > 0"),
        ({"temporal_ensemble_coeff": -0.1}, "temporal_ensemble_coeff >= 0"),
        ({"scratch_heads": 5}, "divide scratch_width"),
        ({"fusion": "middle"}, "fusion among early, late"),
        ({"n_action_steps": 99}, "n_action_steps <= chunk_size"),
        ({"n_heads": 3}, "divide dim_model"),
        ({"text_dropout": 1.0}, r"text_dropout in \[0, 1\)"),
        ({"n_layers": 0}, "n_layers > 0"),
        ({"action_space": "se3_relative"}, "gripper_loss=l1"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(FoveaError, match=words):
        EFVLAConfig.tiny(**changes)
    with pytest.raises(FoveaError, match="tiny, b32"):
        EFVLAConfig.preset("huge")


def test_three_cameras_are_told_a_width_that_they_divide():
    picture = PolicyFeature(type=FeatureType.VISUAL, shape=(3, 32, 32))
    inputs = {f"observation.images.{name}": picture for name in ("left", "right", "wrist")}
    state = {"observation.state": PolicyFeature(type=FeatureType.STATE, shape=(8,))}

    def model(**changes):
        sizes = {"encoder_width": 16, "encoder_grid": (2, 2), "temperature": 0.1, "device": "cpu"}
        return EFVLAModel(EFVLAConfig.preset("tiny", input_features=inputs | state, **sizes, **changes))

    with pytest.raises(FoveaError, match=r"3 cameras x 4 readouts x 8 pooling_heads.*vision_width=480"):
        model()
    words = Tokens(torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool))
    tokens = model(vision_width=480).tokens(torch.randn(2, 3, 3, 4, 16), words, torch.randn(2, 3, 10))
    assert tokens.shape == (2, 3, 256)
