"""What a vision-language model hands to a policy: the states of every layer, and the raw features beside them.

Shape letters: L layers, B batch, M patches of all cameras, Q action queries, D width of the language model, R width of
the raw vision features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VLMStates:
    """States of one batch.

    Attributes:
        vision: (L, B, M, D) states of the patches after layers 1..L (the embeddings are not among them).
        queries: (L, B, Q, D) states of the action queries after the same layers.
        features: (B, M, R) features of the vision encoders before the projector (F, FocusVLA section 3).
        mask: (B, M), True on patches that exist; None where all do.
    """

    vision: Tensor
    queries: Tensor
    features: Tensor
    mask: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "VLMStates":
        """The same in another precision."""
        return VLMStates(self.vision.to(dtype), self.queries.to(dtype), self.features.to(dtype), self.mask)
