"""Batches that a policy must not act on or learn from are refused by name, and leave no trace in its memory."""

import re

import numpy as np
import pytest
import torch
from toy_batches import TASKS, frames, windows

from fovea.errors import FoveaError
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.focus_vla.modeling_focus_vla import FocusVLAPolicy
from fovea.vlm.config import VLMConfig

PICTURE, STATE = "observation.images.image", "observation.state"
POSES = {"action_space": "se3_relative", "gripper_loss": "l1"}


@pytest.fixture
def focus(encoder):
    torch.manual_seed(1)
    return FocusVLAPolicy(FocusVLAConfig.tiny(vlm=VLMConfig.toy(patch_pool=1)), encoder=encoder).eval()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "changes", [{}, {"temporal_ensemble": "newest"}, POSES, POSES | {"temporal_ensemble": "newest"}], ids=str
)
def test_a_state_that_is_no_number_is_refused_and_forgotten(make_policy, changes, value):
    policy, other = make_policy(**changes).eval(), make_policy(**changes).eval()
    for step in range(6):
        batch = frames(2, seed=step)
        if step in (0, 2):
            wrong = batch | {STATE: batch[STATE].clone()}
            wrong[STATE][1, 3] = value
            with pytest.raises(FoveaError, match=r"finite numbers in observation\.state, got .* in row 1 of"):
                policy.select_action(wrong)
        assert torch.equal(policy.select_action(batch), other.select_action(batch))


def test_a_chunk_is_not_predicted_from_a_state_that_is_no_number(make_policy, focus):
    batch = frames(2)
    batch[STATE][0] = float("nan")
    for policy in (make_policy().eval(), focus):
        with pytest.raises(FoveaError, match=r"in row 0 of the batch"):
            policy.predict_action_chunk(batch)


@pytest.mark.parametrize(
    "change",
    [
        {"task": TASKS[:1]},
        {"task": TASKS},
        {STATE: torch.zeros(1, 8)},
        {STATE: torch.zeros(3, 8)},
        {PICTURE: torch.zeros(1, 3, 32, 32, dtype=torch.uint8)},
    ],
)
@pytest.mark.parametrize("changes", [{}, {"use_text_pooling": False}], ids=str)
def test_as_many_of_each_as_there_are_environments(make_policy, focus, change, changes):
    for policy in (make_policy(**changes).eval(), focus):
        with pytest.raises(
            FoveaError, match=r"expected as many of each as the batch has samples, got .* of "
        ):
            policy.select_action(frames(2) | change)
        assert policy.select_action(frames(2)).shape == (2, 7)  # the other count was not remembered


@pytest.mark.parametrize("changes", [{}, {"use_text_pooling": False}], ids=str)
def test_as_many_instructions_as_windows(make_policy, changes):
    policy = make_policy(**changes)
    for wrong in ({"task": TASKS[:1]}, {"action": windows(policy, 3)["action"]}):
        batch = {key: value for key, value in windows(policy, 2).items() if key != "action_is_pad"}
        with pytest.raises(FoveaError, match="as many of each"):
            policy(batch | wrong)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (PICTURE, torch.zeros(2, 1, 32, 32, dtype=torch.uint8), r"\(B, 3, h, w\), RGB, got \(2, 1, 32, 32\)"),
        (PICTURE, torch.zeros(2, 4, 32, 32, dtype=torch.uint8), r"RGB, got \(2, 4, 32, 32\)"),
        (PICTURE, torch.zeros(2, 3, 0, 0, dtype=torch.uint8), r"RGB, got \(2, 3, 0, 0\)"),
        (PICTURE, torch.zeros(2, 32, 32, dtype=torch.uint8), r"of shape \(B, 3, h, w\), got \(2, 32, 32\)"),
        (PICTURE, np.zeros((2, 3, 32, 32), np.uint8), "as a tensor .*, got ndarray"),
        (STATE, torch.zeros(2, 1, 8), r"of shape \(B, P\), got \(2, 1, 8\)"),
        (STATE, np.zeros((2, 8)), "as a tensor .*, got ndarray"),
    ],
)
def test_what_is_no_picture_or_no_state_is_named(make_policy, key, value, words):
    policy = make_policy().eval()
    with pytest.raises(FoveaError, match=f"expected {re.escape(key)} .*{words}"):
        policy.select_action(frames(2) | {key: value})
    assert policy.select_action(frames(2)).shape == (2, 7)


def test_a_mask_of_whole_numbers_masks_as_one_of_truth_values(make_policy):
    policy = make_policy(text_dropout=0.0, proprio_noise=0.0).eval()
    batch = windows(policy, 2)
    expected = policy(batch)[0]
    assert torch.equal(policy(batch | {"action_is_pad": batch["action_is_pad"].long()})[0], expected)


def test_a_mask_of_another_shape_is_refused(make_policy):
    policy = make_policy()
    batch = windows(policy, 2)
    for wrong in (batch["action_is_pad"][:1], batch["action_is_pad"][:, 1:], [True, False]):
        with pytest.raises(FoveaError, match="expected action_is_pad of shape"):
            policy(batch | {"action_is_pad": wrong})
    with pytest.raises(FoveaError, match="expected action in a batch to learn from"):
        policy({key: value for key, value in batch.items() if key != "action"})


def test_nothing_beyond_an_episode_s_end_matters_even_if_it_is_no_number(make_policy):
    policy = make_policy(proprio_noise=0.0)
    batch = windows(policy, 2)
    expected = policy(batch)[0]
    batch["action"][batch["action_is_pad"]] = float("nan")
    loss = policy(batch)[0]
    loss.backward()
    assert torch.equal(loss, expected)
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "changes", [{"gripper_loss": "l1"}, {"fusion": "late", "gripper_loss": "l1"}, POSES], ids=str
)
def test_a_policy_in_another_precision_acts_alike(make_policy, changes, precision):
    single, policy = make_policy(**changes).eval(), make_policy(**changes).eval().to(precision)
    for step in range(6):
        batch = frames(2, seed=step)
        action = policy.select_action(batch)
        assert action.dtype == torch.float32
        assert torch.allclose(action, single.select_action(batch), atol=0.05)
