"""Early fusion (EF-VLA, eq. 1): every word collects the patches it resembles.

Shape letters: B batch, T time, C cameras, N patches, M words, D joint width, V width of the fused tokens.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fovea.fusion.base import Fusion
from fovea.tokens import Tokens

LARGEST_TAU = 100.0


class EarlyFusion(Fusion):
    """f_vl = softmax_over_patches(f_l f_v^T / tau) f_v, one tau a camera.

    tau is parametrised as s = log(1 / tau), 1 / tau = exp(s) <= `max_scale` (100): it cannot reach zero. It never
    exceeds 100, as OTTER's. Exempt `log_scale` from weight decay.

    Non-obvious: the cap lets gradients through, and training keeps s itself below it (as CLIP does): a tau at the cap
    can come back.
    """

    def __init__(
        self, width: int, grid: tuple[int, int], cameras: int, *, temperature: float = 0.07, **options: Any
    ) -> None:
        super().__init__(width, grid, cameras, **options)
        self.log_scale = nn.Parameter(torch.full((cameras,), math.log(1 / temperature)))

    @property
    def scale(self) -> Tensor:
        """1 / tau, one a camera (C,)."""
        own = self.log_scale
        return (own + (own.clamp(*self._ends) - own).detach()).exp()

    @property
    def _ends(self) -> tuple[float, float | None]:
        """Least and largest s."""
        return -math.log(LARGEST_TAU), None if self.max_scale is None else math.log(self.max_scale)

    def forward(self, patches: Tensor, words: Tokens) -> Tokens:
        """Patches (B, T, C, N, D), words (B, M, D) -> one token a word, (B, T, C, M, V)."""
        if self.training:
            with torch.no_grad():
                self.log_scale.clamp_(*self._ends)
        patches = patches.to(words.values.dtype)
        attention = self.attention(patches, words)
        content = attention @ patches
        place = None if self.positions is None else attention @ self.positions
        mask = words.mask[:, None, None].expand(content.shape[:-1])
        return Tokens(self._join(content, place), mask)

    def attention(self, patches: Tensor, words: Tokens) -> Tensor:
        """Word-to-patch weights (B, T, C, M, N); each row sums to one."""
        batch, time, cameras, count, _ = patches.shape
        similarity = words.values @ patches.flatten(1, 3).transpose(1, 2)  # one product for all frames
        similarity = similarity.view(batch, -1, time, cameras, count).permute(0, 2, 3, 1, 4)
        return (similarity * self.scale[:, None, None]).softmax(dim=-1)
