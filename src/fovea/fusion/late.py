"""Late fusion (LF-VLA, a baseline of the paper): all patches go on to the policy, words have no say.

Shape letters: B batch, T time, C cameras, N patches, M words, D joint width, V width of the fused tokens.
"""

import torch
from torch import Tensor

from fovea.fusion.base import Fusion
from fovea.tokens import Tokens


class LateFusion(Fusion):
    """Patches with their positions, nothing else."""

    def forward(self, patches: Tensor, words: Tokens) -> Tokens:
        """Patches (B, T, C, N, D) -> (B, T, C, N, V); the words are not looked at."""
        values = self._join(patches.to(words.values.dtype), self.positions)
        return Tokens(values, torch.ones(values.shape[:-1], dtype=torch.bool, device=values.device))
