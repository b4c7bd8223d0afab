"""The regression head: masked errors, a gripper that is open or closed."""

import torch

from fovea.heads import RegressionHead


def test_l1_is_the_mean_over_real_actions_of_each_sample():
    head = RegressionHead(8, 3, 7)
    raw, target = head(torch.randn(2, 4, 8)), torch.randn(2, 4, 3, 7)
    mask = torch.rand(2, 4, 3) > 0.4
    loss, parts = head.loss(raw, target, mask)
    for i in range(2):
        assert torch.allclose(loss[i], (raw[i] - target[i])[mask[i]].abs().mean())
    assert torch.equal(parts["l1"], loss)
    nothing, _ = head.loss(raw, target, torch.zeros_like(mask))
    assert nothing.tolist() == [0.0, 0.0]


def test_the_gripper_by_cross_entropy_ends_open_or_closed():
    head = RegressionHead(8, 3, 7, gripper="bce", gripper_weight=2.0)
    target = torch.zeros(1, 1, 3, 7)
    target[..., -1] = torch.tensor([1.0, -1.0, 1.0])
    sure, wrong = target.clone(), target.clone()
    sure[..., -1] *= 20
    wrong[..., -1] *= -20
    mask = torch.ones(1, 1, 3, dtype=torch.bool)
    assert head.loss(sure, target, mask)[0] < 1e-6
    loss, parts = head.loss(wrong, target, mask)
    assert torch.allclose(loss, parts["gripper_bce"] * 2 / 7)
    assert torch.allclose(head.decode(sure), target, atol=1e-6)
    assert head.decode(head(torch.randn(5, 8)))[..., -1].abs().max() <= 1
