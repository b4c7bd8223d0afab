"""The projector of Prismatic: vision features to the width of the language model.

Shape letters: R feature width, K inner width, D width of the language model.
"""

from torch import Tensor, nn


class FusedProjector(nn.Module):
    """R -> K -> GELU -> D -> GELU -> D, Prismatic's projector for fused encoders (there K = 4 R).

    Layers are called fc1, fc2 and fc3, as in the public Hugging Face checkpoints.
    """

    def __init__(self, feature_width: int, width: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or 4 * feature_width
        self.fc1 = nn.Linear(feature_width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.fc3 = nn.Linear(width, width)
        self.activation = nn.GELU()

    def forward(self, features: Tensor) -> Tensor:
        """(..., R) -> (..., D)."""
        x = self.activation(self.fc1(features))
        return self.fc3(self.activation(self.fc2(x)))
