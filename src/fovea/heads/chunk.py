"""From nothing to a chunk of latents, and from latents to actions: the two ends of VLA-Adapter's policy.

Shape letters: B batch, H horizon, D width, A action size, E = A x (width of the language model), the latent's width.
"""

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.heads.regression import masked_mean


class ChunkStem(nn.Module):
    """Where the actions of a chunk begin: LayerNorm, Linear, ReLU of a latent (H, E).

    Args:
        latent_width: E.
        learned: a learned latent for every action. False reproduces VLA-Adapter, which starts from zeros (with
            noise in training): then only positions, if there are any, tell the actions of a chunk apart.
        noise: deviation of that noise.
    """

    def __init__(
        self, horizon: int, latent_width: int, width: int, *, learned: bool = True, noise: float = 0.02
    ) -> None:
        super().__init__()
        self.shape, self.noise = (horizon, latent_width), noise
        self.queries = nn.Parameter(torch.randn(self.shape) * noise) if learned else None
        self.norm = nn.LayerNorm(latent_width)
        self.linear = nn.Linear(latent_width, width)

    def forward(self, count: int, latent: Tensor | None = None) -> Tensor:
        """Start `count` chunks: (B, H, D).

        Args:
            latent: (B, any H, E), instead of the stem's own.
        """
        if latent is None and self.queries is not None:
            latent = self.queries
        elif latent is None:
            latent = self.linear.weight.new_zeros(self.shape)
            if self.training:
                latent = latent + torch.randn_like(latent) * self.noise
        elif latent.ndim != 3 or latent.shape[-1] != self.shape[1]:
            raise FoveaError(f"expected a latent (B, H, {self.shape[1]}), got {tuple(latent.shape)}")
        start = self.linear(self.norm(latent)).relu()
        return start.expand(count, -1, -1) if start.ndim == 2 else start


class ChunkHead(nn.Module):
    """LayerNorm, Linear to the actions; L1 loss."""

    def __init__(self, width: int, action: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, action)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, D) -> (B, H, A)."""
        return self.linear(self.norm(x))

    def loss(self, actions: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error over the True places of mask (B, H), per sample (B,), and its parts.

        The parts are `l1_motion`, all dimensions but the last (if there are any), and `l1_gripper`.
        """
        error = (actions - target).abs()
        parts = {"l1_gripper": masked_mean(error[..., -1], mask)}
        if error.shape[-1] > 1:
            parts["l1_motion"] = masked_mean(error[..., :-1].mean(-1), mask)
        return masked_mean(error.mean(-1), mask), parts
