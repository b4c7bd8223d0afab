"""EF-VLA in the loop: stepping equals the full forward, episodes do not disturb one another."""

from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from toy_batches import frames, join, pick

from fovea.errors import FoveaError
from fovea.policies.ef_vla.model_ef_vla import EFVLAModel, StepState

STEPS = 7  # longer than the context of 4
POSES = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(10,))}
RELATIVE = {"action_space": "se3_relative", "output_features": POSES}


def rollout(policy, count: int = 1, steps: int = STEPS) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Play `steps` frames of `count` episodes together: the frames and the actions (steps, count, A)."""
    states = [policy.new_episode() for _ in range(count)]
    seen = [frames(count, seed=step) for step in range(steps)]
    return seen, torch.stack([policy.act(states, frame) for frame in seen])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("steps", [1, 3, 4, 5, 13])
def test_cached_stepping_equals_the_sliding_forward_at_every_position(make_policy, positions, steps):
    model: EFVLAModel = make_policy(time_positions=positions).eval().model
    context = model.config.n_obs_steps  # 4
    tokens, state = torch.randn(2, steps, model.config.dim_model), StepState()
    with torch.no_grad():
        stepped = torch.stack([model.step(tokens[:, step], state) for step in range(steps)], dim=1)
        assert torch.allclose(stepped, model.slide(tokens), atol=1e-5)
        assert torch.allclose(stepped[:, :context], model.predict(tokens[:, :context]), atol=1e-5)
        for step in range(steps):  # every frame sees its own last `context` frames and nothing else
            window = model.predict(tokens[:, max(0, step + 1 - context) : step + 1])[:, -1]
            assert torch.allclose(stepped[:, step], window, atol=1e-5)


@torch.no_grad()
def test_one_forward_over_more_frames_than_the_context_needs_rotary_positions(make_policy):
    tokens = torch.randn(1, 7, 32)
    with pytest.raises(FoveaError, match="at most 4 steps"):
        make_policy(time_positions="learned").eval().model.predict(tokens)
    model = make_policy(time_positions="rotary").eval().model
    whole = model.predict(tokens)
    assert torch.allclose(whole[:, :4], model.slide(tokens)[:, :4], atol=1e-5)
    assert not torch.allclose(
        whole[:, 5:], model.slide(tokens)[:, 5:], atol=1e-4
    )  # frames see all before them
    assert torch.allclose(whole[:, :6], model.predict(tokens[:, :6]), atol=1e-5)


def test_a_chunk_is_played_before_the_next_one_is_predicted(make_policy):
    policy = make_policy(gripper_loss="l1").eval()
    seen, actions = rollout(policy)
    count = policy.config.n_action_steps
    for start in (0, 3, 6):
        window = seen[max(0, start - 3) : start + 1]
        states = [policy.new_episode()]
        for frame in window[:-1]:
            policy._observe(states, frame)
        policy._observe(states, window[-1])
        with torch.no_grad():
            chunk = policy._chunks(states, None, [0])[0, :count]
        played = actions[start : start + count, 0]
        assert torch.allclose(played, chunk[: len(played)], atol=1e-5)


def test_with_a_stride_only_the_frames_of_the_context_are_looked_at(make_policy, monkeypatch):
    """Of frames 0 to 8 the policy sees 0, 3 and 6; their chunks are played from there."""
    policy = make_policy(gripper_loss="l1", obs_stride=3).eval()
    looked: list[int] = []
    encode = policy.encoder.encode_image
    monkeypatch.setattr(policy.encoder, "encode_image", lambda x: (looked.append(len(x)), encode(x))[1])
    seen, actions = rollout(policy, steps=9)
    assert looked == [2, 2, 2]  # two cameras
    every = make_policy(gripper_loss="l1").eval()
    every.load_state_dict(policy.state_dict())
    states = [every.new_episode()]
    for number, start in enumerate((0, 3, 6)):
        chunk = every.predict_action_chunk(seen[start]) if number == 0 else None
        every._observe(states, seen[start])
        expected = every._chunks(states, None, [0])[0, :3]
        assert chunk is None or torch.allclose(chunk[0, :3], expected, atol=1e-5)
        assert torch.allclose(actions[start : start + 3, 0], expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 3])
def test_actions_played_without_looking_are_those_of_asking_at_every_frame(make_policy, stride):
    policy = make_policy(obs_stride=stride).eval()
    seen, asked = rollout(policy, steps=6)
    states, played = [policy.new_episode()], []
    while len(played) < 6:
        played += [policy.act(states, seen[len(played)])[0], *policy.act_blind(states[0])]
        assert len(played) % stride == 0
    assert torch.equal(torch.stack(played), asked[:, 0])


def test_episodes_that_began_at_different_times_keep_their_own_stride(make_policy):
    policy = make_policy(gripper_loss="l1", obs_stride=3).eval()
    _, alone = rollout(policy, steps=5)
    states, later = [policy.new_episode()], []
    policy.act(states, frames(1, seed=7))  # the first is one frame ahead of the second
    states.append(policy.new_episode())
    for step in range(5):
        later.append(policy.act(states, join([frames(1, seed=8 + step), frames(1, seed=step)]))[1])
    assert torch.allclose(torch.stack(later), alone[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs_stride": 2}, "divide n_action_steps = 3"),
        ({"obs_stride": 3, "temporal_ensemble": "newest"}, "predicts at every"),
        ({"obs_stride": 0}, "obs_stride > 0"),
    ],
)
def test_strides_that_no_chunk_can_bridge_are_refused(make_policy, changes, message):
    with pytest.raises(FoveaError, match=message):
        make_policy(**changes)


def test_episodes_of_different_length_and_order_do_not_disturb_one_another(make_policy):
    """Acting for several episodes at once equals acting for each alone, whenever each began."""
    for changes in ({}, {"temporal_ensemble": "newest"}, {"fusion": "late"}, RELATIVE):
        policy = make_policy(gripper_loss="l1", **changes).eval()
        alone = []
        for episode in range(3):
            state = [policy.new_episode()]
            alone.append([policy.act(state, pick(frames(3, seed=s), [episode]))[0] for s in range(STEPS)])
        begins, states = (0, 2, 5), {}
        ages = dict.fromkeys(range(3), 0)
        for now in range(STEPS + 5):
            running = [e for e in (2, 0, 1) if begins[e] <= now < begins[e] + STEPS]
            for episode in running:
                if ages[episode] == 0:
                    states[episode] = policy.new_episode()
            rows = [pick(frames(3, seed=ages[e]), [e]) for e in running]
            batch = join(rows)
            for episode, action in zip(running, policy.act([states[e] for e in running], batch), strict=True):
                assert torch.allclose(action, alone[episode][ages[episode]], atol=1e-5)
                ages[episode] += 1


def test_select_action_keeps_its_own_history_until_reset(make_policy):
    policy = make_policy().eval()
    seen, actions = rollout(policy, count=2)
    for _ in range(2):
        policy.reset()
        again = torch.stack([policy.select_action(frame) for frame in seen])
        assert torch.equal(again, actions)


def test_cameras_are_told_apart_by_their_names_not_by_their_order(make_policy):
    policy = make_policy()
    turned = make_policy(input_features=dict(reversed(policy.config.input_features.items())))
    assert torch.equal(turned.select_action(frames(2)), policy.select_action(frames(2)))


def test_cameras_may_have_pictures_of_different_sizes(make_policy, encoder):
    policy, batch = make_policy(), frames(3)
    batch["observation.images.image2"] = torch.randint(0, 256, (3, 3, 24, 40), dtype=torch.uint8)
    patches = policy._features.patches(batch, False, torch.device("cpu"))
    for camera, key in enumerate(policy.config.camera_keys):
        assert torch.allclose(patches[:, 0, camera], encoder.encode_image(batch[key]).values, atol=1e-6)


def test_float_pictures_act_like_bytes(make_policy):
    policy = make_policy().eval()
    seen, actions = rollout(policy)
    for frame in seen:
        for key in ("observation.images.image", "observation.images.image2"):
            frame[key] = frame[key].float() / 255
    policy.reset()
    assert torch.equal(torch.stack([policy.select_action(frame) for frame in seen]), actions)


def test_pictures_are_encoded_in_one_call(make_policy, encoder, monkeypatch):
    policy = make_policy().eval()
    calls: list[int] = []
    encode = encoder.encode_image
    monkeypatch.setattr(encoder, "encode_image", lambda x: calls.append(len(x)) or encode(x))
    policy.act([policy.new_episode() for _ in range(3)], frames(3))
    assert calls == [6]


def test_a_gripper_trained_by_cross_entropy_opens_or_closes(make_policy):
    for ensemble in ("none", "oldest"):
        _, actions = rollout(make_policy(temporal_ensemble=ensemble), count=2)
        assert set(actions[..., -1].flatten().tolist()) <= {-1.0, 1.0}


def test_ensembling_averages_the_chunks_that_cover_a_step(make_policy):
    policy = make_policy(gripper_loss="l1", temporal_ensemble="oldest", temporal_ensemble_coeff=0.5).eval()
    seen, actions = rollout(policy)
    chunks = []
    policy.reset()
    for frame in seen:
        chunks.append(policy.predict_action_chunk(frame)[0])
    last = STEPS - 1
    votes = torch.stack(
        [chunks[last - 2][2], chunks[last - 1][1], chunks[last][0]]
    )  # chunks cut to 3 actions
    weights = torch.exp(-0.5 * torch.arange(3.0))
    assert torch.allclose(actions[last, 0], (weights @ votes) / weights.sum(), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temporal_ensemble": "newest"},
        {"temporal_ensemble": "oldest"},
        pytest.param(RELATIVE, id="se3_relative"),
    ],
    ids=str,
)
def test_environments_of_a_batch_are_reset_alone(make_policy, changes):
    """`select_action` for three environments whose episodes end at different times, as for each alone."""
    policy = make_policy(gripper_loss="l1", **changes).eval()
    ends = {1: 2, 0: 4}  # environment -> step before which its second episode begins
    alone = []
    for environment in range(3):
        policy.reset()
        taken = []
        for step in range(STEPS):
            if ends.get(environment) == step:
                policy.reset()
            taken.append(policy.select_action(pick(frames(3, seed=step), [environment]))[0])
        alone.append(torch.stack(taken))
    policy.reset()
    for step in range(STEPS):
        for environment, end in ends.items():
            if end == step:
                policy.reset([environment])
        actions = policy.select_action(frames(3, seed=step))
        for environment in range(3):
            assert torch.allclose(actions[environment], alone[environment][step], atol=1e-5)
    with pytest.raises(FoveaError, match="environments 0 to 2 of the batch, got 3"):
        policy.reset([3])
    with pytest.raises(FoveaError, match=r"call reset\(\) when episodes begin"):
        policy.select_action(frames(2))


def test_environments_are_reset_by_number_or_by_whether_they_are_done(make_policy):
    policy = make_policy(gripper_loss="l1").eval()
    policy.reset([0])  # nothing to forget yet
    for step in range(3):
        policy.select_action(frames(3, seed=step))
    before = list(policy._states)
    policy.reset(np.array([False, True, False]))
    assert [new is old for new, old in zip(policy._states, before, strict=True)] == [True, False, True]
    policy.reset(torch.tensor([0]))
    assert policy._states[0] is not before[0]
    with pytest.raises(FoveaError, match="3 truth values"):
        policy.reset([True, False])


@pytest.mark.parametrize("task", ["pick up the milk", None, []])
def test_a_batch_without_an_instruction_a_frame_leaves_no_trace(make_policy, task):
    policy = make_policy().eval()
    with pytest.raises(FoveaError, match="one instruction in words per sample"):
        policy.select_action(frames(1) | {"task": task})
    assert policy.select_action(frames(1)).shape == (1, 7)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.float(),
        lambda p: p.long(),
        lambda p: (p.float() / 255 - 0.5) / 0.25,
        lambda p: p.float() / 0,
    ],
)
def test_pictures_in_another_range_are_refused(make_policy, change):
    policy, batch = make_policy().eval(), frames(1)
    batch["observation.images.image"] = change(batch["observation.images.image"])
    with pytest.raises(FoveaError, match=r"uint8, or floats in \[0, 1\], got"):
        policy.select_action(batch)


def test_a_state_of_another_width_is_refused(make_policy):
    policy = make_policy(state_layout="as_is").eval()
    with pytest.raises(FoveaError, match=r"observation\.state of 8 numbers.*got 9"):
        policy.select_action(frames(1) | {"observation.state": torch.zeros(1, 9)})


def test_poses_see_the_opening_of_libero_s_gripper_from_0_to_1(make_policy):
    policy = make_policy(action_space="se3_relative", gripper_loss="l1")
    assert policy.config.proprio_noise == 0.01
    assert make_policy().config.proprio_noise == 0.05
    state = torch.zeros(3, 8)
    state[:, 6] = torch.tensor([0.0, 0.02, 0.041])
    state[:, 7] = -state[:, 6]
    seen = policy._features.proprio(frames(3) | {"observation.state": state}, False, torch.device("cpu"))
    assert torch.allclose(seen[:, 0, 9], torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize("weighting", ["newest", "oldest"])
def test_receding_horizon_and_ensembling_together(make_policy, weighting):
    """Chunks are cut to n; one is predicted at every step; at most n of them vote, weighted by age."""
    policy = make_policy(gripper_loss="l1", temporal_ensemble=weighting, n_action_steps=2).eval()
    seen, actions = rollout(policy)
    policy.reset()
    chunks = [policy.predict_action_chunk(frame)[0] for frame in seen]
    assert torch.allclose(actions[0, 0], chunks[0][0], atol=1e-6)
    c = {"newest": 0.05, "oldest": -0.01}[weighting]  # the conventions' own coefficients
    weights = torch.exp(c * torch.arange(2.0))
    for step in range(1, STEPS):
        votes = torch.stack([chunks[step - 1][1], chunks[step][0]])
        assert torch.allclose(actions[step, 0], (weights @ votes) / weights.sum(), atol=1e-5)


def test_ensembles_of_poses_average_what_each_chunk_meant_when_it_was_predicted(make_policy):
    from fovea.actions import absolute_chunk
    from fovea.actions.se3 import average_rotations, rows_to_matrix
    from fovea.policies.ef_vla.features_ef_vla import proprio_from_axis_angle

    changes = {"temporal_ensemble": "newest", "n_action_steps": 2, "output_features": POSES}
    policy = make_policy(action_space="se3_relative", gripper_loss="l1", **changes).eval()
    seen, actions = rollout(policy, steps=3)
    states, decoded = [policy.new_episode()], []
    with torch.no_grad():
        for frame in seen:
            policy._observe(states, frame)
            raw = policy.model.predict(torch.stack(states[0].tokens)[None])[:, -1]
            decoded.append(absolute_chunk(proprio_from_axis_angle(frame["observation.state"]), raw)[0])
    votes = torch.stack([decoded[1][1], decoded[2][0]])
    weights = torch.softmax(0.05 * torch.arange(2.0), 0)
    assert torch.allclose(actions[2, 0, :3], weights @ votes[:, :3], atol=1e-5)
    assert torch.allclose(actions[2, 0, 9:], weights @ votes[:, 9:], atol=1e-5)
    expected = average_rotations(rows_to_matrix(votes[:, 3:9]), weights)
    assert torch.allclose(rows_to_matrix(actions[2, 0, 3:9]), expected, atol=1e-5)
    assert torch.allclose(torch.det(expected), torch.tensor(1.0))


def test_relative_poses_are_decoded_with_the_pose_at_prediction_time(make_policy):
    from fovea.actions import absolute_chunk
    from fovea.policies.ef_vla.features_ef_vla import proprio_from_axis_angle

    policy = make_policy(action_space="se3_relative", gripper_loss="l1", output_features=POSES).eval()
    seen, actions = rollout(policy)
    pose = proprio_from_axis_angle(seen[0]["observation.state"])
    states = [policy.new_episode()]
    policy._observe(states, seen[0])
    with torch.no_grad():
        raw = policy.model.predict(states[0].tokens[0][None, None])[:, -1]
    assert torch.allclose(actions[:3, 0], absolute_chunk(pose, raw)[0, :3], atol=1e-5)
    assert torch.allclose(actions[..., 3:6].norm(dim=-1), torch.ones(STEPS, 1), atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"temporal_ensemble": "newest"}], ids=str)
def test_poses_are_played_as_libero_s_changes_from_the_pose_of_the_moment(make_policy, changes):
    """Data of 7 numbers: the policy predicts poses, and every step asks for the change that leads there from now."""
    from fovea.actions import action_towards
    from fovea.policies.ef_vla.features_ef_vla import proprio_from_axis_angle

    poses = make_policy(action_space="se3_relative", gripper_loss="l1", output_features=POSES, **changes)
    policy = make_policy(action_space="se3_relative", gripper_loss="l1", **changes)
    policy.model.load_state_dict(poses.model.state_dict())
    seen, targets = rollout(poses.eval())
    _, actions = rollout(policy.eval())
    assert actions.shape == (STEPS, 1, 7)
    for frame, target, action in zip(seen, targets, actions, strict=True):
        now = proprio_from_axis_angle(frame["observation.state"])
        assert torch.allclose(action, action_towards(now, target), atol=1e-4)


def test_arms_acting_together_each_move_from_their_own_pose(make_policy):
    """Poses near to one another, so that no change of pose is cut to what one step allows."""
    policy = make_policy(action_space="se3_relative", gripper_loss="l1").eval()
    last = policy.model.head.net[-1]
    last.weight.data *= 0.01
    last.bias.data.copy_(torch.tensor([0, 0, 0, 1, 0, 0, 0, 1, 0, 0.5]).repeat(6))
    seen = [frames(3, seed=step) for step in range(STEPS)]
    for frame in seen:
        frame["observation.state"] *= 0.01

    def play(arms: list[int]) -> torch.Tensor:
        states = [policy.new_episode() for _ in arms]
        return torch.stack([policy.act(states, pick(frame, arms)) for frame in seen])

    together = play([0, 1, 2])
    assert (together.abs() < 1).all()
    for arm in range(3):
        assert torch.allclose(together[:, arm], play([arm])[:, 0], atol=1e-5)


def test_one_memory_too_few_is_refused(make_policy):
    policy = make_policy()
    with pytest.raises(FoveaError, match="batch of 1 frames"):
        policy.act([policy.new_episode()], frames(2))
