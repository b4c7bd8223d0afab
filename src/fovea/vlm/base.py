"""What every vision-language model offers to a policy.

Shape letters: B batch, C cameras, N patches of a camera, M = C * N, Q action queries, L layers, D width of the language
model, R width of the raw vision features, S tokens of a sequence.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fovea.encoders import VisionEncoder
from fovea.encoders.base import check_sentences
from fovea.errors import FoveaError
from fovea.nn.squares import average_squares
from fovea.tokens import Tokens
from fovea.vlm.config import VLMConfig, check_pool
from fovea.vlm.sequence import Sequence
from fovea.vlm.states import VLMStates

ENCODE_AT_ONCE = 64  # pictures


class VLM(nn.Module, ABC):
    """Patches and an instruction become the states of every layer, at the patches and at learned action queries.

    A subclass sets `encoder_grid` and `feature_width` of the configuration and the attributes below through
    `_set_sizes`, and implements `vision`, `prompt`, `project` and `run`.

    Attributes:
        config: the configuration, with the facts of the encoder filled in.
        layers: L.
        width: D.
        feature_width: R.
        cameras: C.
        grid: (rows, columns) of a camera's patches, after pooling.
        patches: N, after pooling.
        queries: Q.
        action_queries: (Q, D), learned.
    """

    head = 0  # tokens of the prompt before the patches
    action_queries: nn.Parameter

    def __init__(self, config: VLMConfig) -> None:
        super().__init__()
        self.config = config
        self.layers, self.width = config.layers, config.width
        self.cameras, self.queries = config.cameras, config.queries

    def _set_sizes(self) -> None:
        config = self.config
        if config.encoder_grid is None or config.feature_width is None:
            raise FoveaError("expected encoder_grid and feature_width in the vlm's configuration, got None")
        self.feature_width = config.feature_width
        self.grid = check_pool(config.encoder_grid, config.patch_pool)
        self.patches = self.grid[0] * self.grid[1]

    @property
    @abstractmethod
    def vision(self) -> VisionEncoder:
        """The vision encoder."""

    @abstractmethod
    def prompt(self, instructions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Embeddings of the prompts (B, P, D) and which of them are real (B, P)."""

    @abstractmethod
    def project(self, features: Tensor, instructions: list[str], mask: Tensor | None) -> Tensor:
        """Raw features (B, M, R), real where the mask (B, M) says so -> what the language model reads (B, M, D)."""

    @abstractmethod
    def run(self, sequence: Sequence) -> list[Tensor]:
        """States (B, S, D) after layers 1..L."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Upright RGB uint8 pictures (B, C, 3, H, W) -> raw features (B, M, R), camera after camera.

        These are what `forward` takes and what a feature cache holds. Gradients flow where the encoder has
        trainable weights (LoRA).

        Raises:
            FoveaError: another number of cameras, or not uint8.
        """
        if images.ndim != 5 or images.shape[1] != self.cameras:
            raise FoveaError(
                f"expected uint8 pictures (B, {self.cameras}, 3, H, W), got {tuple(images.shape)}; "
                "the vlm's `cameras` says how many there are"
            )
        parts = images.flatten(0, 1).split(ENCODE_AT_ONCE)
        encoded = torch.cat([self.vision.encode_image(part).values for part in parts])
        return encoded.unflatten(0, (-1, self.cameras)).flatten(1, 2)

    def forward(
        self, features: Tensor | Tokens, instructions: list[str], mask: Tensor | None = None
    ) -> VLMStates:
        """Run the model.

        Args:
            features: (B, M before pooling, R) from `encode_images` or a cache, or Tokens with their mask.
            instructions: B sentences.
            mask: (B, M before pooling), True on patches that exist; None where all do (a camera may be missing).

        Raises:
            FoveaError: shapes or instructions do not fit.
        """
        if isinstance(features, Tokens):
            mask = features.mask if mask is None else features.mask & mask
            features = features.values
        features, mask = self._pool(features, mask)
        sentences = check_sentences(instructions)
        if len(sentences) != len(features):
            raise FoveaError(
                f"expected {len(features)} instructions, one a sample, got {len(sentences)}; repeat a shared one"
            )
        prompt, words = self.prompt(sentences, features.device)
        patches = self.project(features, sentences, mask)
        sequence = Sequence.join(
            prompt.to(patches.dtype), words, patches, mask, self.action_queries, self.head
        )
        states = self.run(sequence)
        compat = self.config.compat
        return VLMStates(
            vision=torch.stack([sequence.vision_states(state, compat) for state in states]),
            queries=torch.stack([sequence.query_states(state, compat) for state in states]),
            features=features,
            mask=None if mask is None else sequence.vision_states(sequence.valid, compat),
        )

    def _pool(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Check shapes; average squares of patches: (B, M, R) of the encoder's grid -> (B, M, R) of `grid`."""
        pool = self.config.patch_pool
        expected = (self.cameras * self.patches * pool**2, self.feature_width)
        if features.ndim != 3 or tuple(features.shape[1:]) != expected:
            raise FoveaError(
                f"expected features (B, {expected[0]}, {expected[1]}) of {self.cameras} cameras, "
                f"got {tuple(features.shape)}; were they made with another encoder?"
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != features.shape[:2]):
            raise FoveaError(
                f"expected a bool mask {tuple(features.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
            )
        if not features.is_floating_point():
            raise FoveaError(f"expected floating-point features, got {features.dtype}; use encode_images")
        if mask is not None and mask.all():
            mask = None
        rows, columns = self.grid
        features = features.to(self.action_queries.dtype)
        return average_squares(features, mask, grid=(rows * pool, columns * pool), side=pool)


def query_parameter(queries: int, width: int) -> nn.Parameter:
    """Learned action queries (Q, D).

    Non-obvious: VLA-Adapter starts them at zero; small random ones differ from the first step on.
    """
    return nn.Parameter(torch.randn(queries, width) * 0.02)
