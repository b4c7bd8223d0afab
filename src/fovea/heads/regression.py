"""Regression head: a chunk of future actions at every position, L1 loss (EF-VLA, section 3.2).

Shape letters: ... leading axes (batch, time), D width, H horizon, A action size.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GripperLoss = Literal["l1", "bce"]


class RegressionHead(nn.Module):
    """Linear, ReLU, Linear to H x A.

    Args:
        gripper: `l1` treats the last action like the others; `bce` makes it a logit of "close" (L1 learns a
            median, and a short release phase is outvoted).
        gripper_weight: weight of the cross-entropy beside one L1 dimension.
    """

    def __init__(
        self,
        width: int,
        horizon: int,
        action: int,
        *,
        gripper: GripperLoss = "l1",
        gripper_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.horizon, self.action, self.gripper, self.gripper_weight = (
            horizon,
            action,
            gripper,
            gripper_weight,
        )
        self.net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, horizon * action))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> raw predictions (..., H, A)."""
        return self.net(x).unflatten(-1, (self.horizon, self.action))

    def loss(self, raw: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean error over real actions.

        Args:
            raw, target: (B, ..., H, A); a `bce` gripper has targets -1 (open) and +1 (close).
            mask: (B, ..., H), True where the target is real.

        Returns:
            per-sample loss (B,) and its parts (B,): `l1`, and `gripper_bce` if so configured. A sample
            without any real action has loss 0.
        """
        target = target.where(mask[..., None], 0)  # whatever is beyond an episode's end, NaN too
        error = (raw - target).abs()
        if self.gripper == "bce":
            close = (target[..., -1] > 0).to(raw.dtype)
            bce = F.binary_cross_entropy_with_logits(raw[..., -1], close, reduction="none")
            motion = error[..., :-1].sum(-1) / max(1, self.action - 1)  # a gripper alone has none
            l1, gripper = masked_mean(motion, mask), masked_mean(bce, mask)
            total = (l1 * (self.action - 1) + gripper * self.gripper_weight) / self.action
            return total, {"l1": l1, "gripper_bce": gripper}
        l1 = masked_mean(error.mean(-1), mask)
        return l1, {"l1": l1}

    def decode(self, raw: Tensor) -> Tensor:
        """Raw predictions -> actions (..., H, A); a `bce` gripper becomes tanh(logit / 2) = 2 P(close) - 1.

        It lies in [-1, 1], and averaging over chunks averages probabilities.
        """
        if self.gripper != "bce":
            return raw
        return torch.cat([raw[..., :-1], torch.tanh(raw[..., -1:] / 2)], dim=-1)


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of error (B, ...) over the True places of mask, one number a sample: (B,)."""
    error, mask = error.flatten(1), mask.flatten(1)
    return (error * mask).sum(1) / mask.sum(1).clamp(min=1)
