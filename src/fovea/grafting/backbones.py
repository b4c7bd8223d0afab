"""A VLA whose vision can be exchanged: what grafting needs of LeRobot's SmolVLA and pi0.5, in one shape.

Pictures never pass through `policy.forward`: the adapter calls the flow model below it, which takes noise and time as
arguments (pi0.5's own `forward` draws both) and hands whatever stands for a picture to `embed_image`.

Shape letters: B batch, C cameras, N tokens of a camera, D width of the language model, V width of the vision tower, H
actions of a chunk, A numbers of a real action, M numbers of a padded one.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fovea.data import keys
from fovea.errors import FoveaError
from fovea.grafting.hooks import Hook, find_hook
from fovea.grafting.settings import EULER_STEPS


@dataclass(frozen=True)
class Inputs:
    """A preprocessed batch without its pictures.

    Attributes:
        words, word_mask: (B, L) token numbers of the prompt, and which are real.
        state: (B, M) normalised, or None where the prompt says it (pi0.5).
        actions: (B, H, M) normalised, padded with zeros.
        real: A.
        is_pad: (B, H), True past the end of the episode.
    """

    words: Tensor
    word_mask: Tensor
    state: Tensor | None
    actions: Tensor
    real: int
    is_pad: Tensor


class Backbone(ABC):
    """A frozen VLA.

    Attributes:
        name: what reports call it.
        identity: of the weights; results of another identity are not re-used.
        policy: LeRobot's.
        before, after: LeRobot's processors.
        own_statistics: the checkpoint brings the normalisation of states and actions; else each suite's data do.
        hook: its `embed_image`.
        side: it sees side x side tokens of a camera.
        width: D.
        chunk: H.
        noise_size: M.

    Raises:
        FoveaError: the policy has no `embed_image` where it should be.
    """

    kind: str

    def __init__(
        self, name: str, policy: Any, before: Any, after: Any, *, identity: str, own_statistics: bool = True
    ) -> None:
        self.name, self.identity, self.policy = name, identity, policy.eval().requires_grad_(False)
        self.before, self.after, self.own_statistics = before, after, own_statistics
        self.hook: Hook = find_hook(policy, self.kind, self.image_size)
        self.chunk: int = policy.config.chunk_size
        self.noise_size: int = policy.config.max_action_dim

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures that reach `embed_image`."""

    @property
    @abstractmethod
    def side(self) -> int:
        """Tokens of a camera are side x side."""

    @property
    @abstractmethod
    def words_table(self) -> Tensor:
        """The language model's word embeddings, (words, D)."""

    @abstractmethod
    def shown(self, pictures: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) -> what the policy hands to `embed_image`: (B, 3, H, W) in [-1, 1]."""

    @abstractmethod
    def tower(self, image: Tensor) -> Tensor:
        """The native vision tower before the connector: (B, 3, H, W) in [-1, 1] -> patches (B, P, V)."""

    @abstractmethod
    def connect(self, patches: Tensor) -> Tensor:
        """What the policy's own connector makes of its tower's patches: (B, P, V) -> (B, N, D)."""

    @property
    @abstractmethod
    def vlm(self) -> Any:
        """The vision-language model inside the policy."""

    @property
    def tower_shape(self) -> tuple[tuple[int, int], int]:
        """((rows, columns), V) of `tower`."""
        vision = self.vlm.config.vision_config
        height, width = self.image_size
        return (height // vision.patch_size, width // vision.patch_size), vision.hidden_size

    @abstractmethod
    def velocity_loss(
        self, inputs: Inputs, pictures: Sequence[Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        """Squared error of the flow's velocity at (t, noise): (B, H, A).

        Args:
            pictures: one per camera, pictures (B, 3, H, W) or tokens (B, N, V) for a graft.
            noise: (B, H, M).
            time: (B,), 1 is noise and 0 the action.
        """

    @abstractmethod
    def sample(
        self, inputs: Inputs, pictures: Sequence[Tensor], noise: Tensor, steps: int = EULER_STEPS
    ) -> Tensor:
        """Chunks (B, H, A), normalised: `steps` Euler steps from `noise` (B, H, M)."""

    @property
    def width(self) -> int:
        """D."""
        return self.words_table.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model."""
        return self.words_table.dtype

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.words_table.device

    def embed(self, pictures: Tensor) -> Tensor:
        """The native tokens of uint8 pictures: (B, 3, h, w) -> (B, N, D)."""
        return self.hook.native(self.shown(pictures.to(self.device)))

    def inputs(self, batch: dict[str, Any]) -> Inputs:
        """Run the policy's own preprocessor on states, actions and sentences of a recorded batch.

        Args:
            batch: `observation.state` (B, S), `action` (B, H, A), `action_is_pad` (B, H), `task` B sentences.

        Raises:
            FoveaError: the chunk has another length, or the vectors do not fit the policy.
        """
        actions = batch[keys.ACTION]
        if actions.shape[1] != self.chunk or actions.shape[2] > self.noise_size:
            raise FoveaError(
                f"{self.name}: expected chunks of {self.chunk} actions of at most {self.noise_size} numbers, got "
                f"{tuple(actions.shape[1:])}"
            )
        for step in self.before.steps:
            for key in (keys.ACTION, keys.STATE):
                own = (getattr(step, "stats", None) or {}).get(key, {}).get("mean")
                if own is not None and key in batch and len(own) != batch[key].shape[-1]:
                    raise FoveaError(
                        f"{self.name}: expected {key} of {len(own)} numbers, as the checkpoint's statistics have it, "
                        f"got {batch[key].shape[-1]}; it is of another robot than the demonstrations"
                    )
        out = self.before({key: value for key, value in batch.items() if not key.endswith("_is_pad")})
        real = actions.shape[2]
        padded = torch.nn.functional.pad(out[keys.ACTION].float(), (0, self.noise_size - real))
        return Inputs(
            out["observation.language.tokens"],
            out["observation.language.attention_mask"].bool(),
            self._state(out),
            padded,
            real,
            batch[f"{keys.ACTION}_is_pad"].to(padded.device),
        )

    def _state(self, out: dict[str, Any]) -> Tensor | None:
        return None

    def real_units(self, actions: Tensor) -> Tensor:
        """Normalised chunks (B, H, A) -> the robot's units."""
        return self.after(actions)

    def _ones(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        return [torch.ones(len(p), dtype=torch.bool, device=p.device) for p in pictures]


class SmolVLABackbone(Backbone):
    """SmolVLA (arXiv 2506.01844) of LeRobot 0.6: 64 tokens x 960 a camera, from 512 px, in the released size."""

    kind = "smolvla"

    @property
    def vlm(self) -> Any:
        return self.policy.model.vlm_with_expert

    @property
    def image_size(self) -> tuple[int, int]:
        width, height = self.policy.config.resize_imgs_with_padding
        return height, width

    @property
    def side(self) -> int:
        return self.tower_shape[0][0] // self.vlm.config.scale_factor

    @property
    def words_table(self) -> Tensor:
        return self.vlm.get_vlm_model().text_model.get_input_embeddings().weight

    def shown(self, pictures: Tensor) -> Tensor:
        key = next(iter(self.policy.config.image_features))
        images, _ = self.policy.prepare_images({key: pictures.float() / 255})
        return images[0]

    def tower(self, image: Tensor) -> Tensor:
        vision = self.vlm.get_vlm_model().vision_model
        return vision(pixel_values=image.to(vision.dtype), patch_attention_mask=None).last_hidden_state

    def connect(self, patches: Tensor) -> Tensor:
        return self.vlm.get_vlm_model().connector(patches)

    def _state(self, out: dict[str, Any]) -> Tensor:
        return self.policy.prepare_state(out).float()

    def velocity_loss(
        self, inputs: Inputs, pictures: Sequence[Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        losses = self.policy.model.forward(
            list(pictures),
            self._ones(pictures),
            inputs.words,
            inputs.word_mask,
            inputs.state,
            inputs.actions,
            noise,
            time,
        )
        return losses[..., : inputs.real]

    def sample(
        self, inputs: Inputs, pictures: Sequence[Tensor], noise: Tensor, steps: int = EULER_STEPS
    ) -> Tensor:
        self.policy.config.num_steps = steps
        chunk = self.policy.model.sample_actions(
            list(pictures), self._ones(pictures), inputs.words, inputs.word_mask, inputs.state, noise=noise
        )
        return chunk[..., : inputs.real]


class Pi05Backbone(Backbone):
    """pi0.5 (arXiv 2504.16054) of LeRobot 0.6: 256 tokens x 2048 a camera, from 224 px."""

    kind = "pi05"

    @property
    def vlm(self) -> Any:
        return self.policy.model.paligemma_with_expert.paligemma

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.policy.config.image_resolution
        return height, width

    @property
    def side(self) -> int:
        return self.tower_shape[0][0]

    @property
    def words_table(self) -> Tensor:
        return self.vlm.model.language_model.get_input_embeddings().weight

    def shown(self, pictures: Tensor) -> Tensor:
        key = next(iter(self.policy.config.image_features))
        images, _ = self.policy._preprocess_images({key: pictures.float() / 255})
        return images[0]

    def tower(self, image: Tensor) -> Tensor:
        return self.vlm.model.vision_tower(image.float()).last_hidden_state

    def connect(self, patches: Tensor) -> Tensor:
        return self.vlm.model.multi_modal_projector(patches)

    def velocity_loss(
        self, inputs: Inputs, pictures: Sequence[Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        losses = self.policy.model.forward(
            list(pictures), self._ones(pictures), inputs.words, inputs.word_mask, inputs.actions, noise, time
        )
        return losses[..., : inputs.real]

    def sample(
        self, inputs: Inputs, pictures: Sequence[Tensor], noise: Tensor, steps: int = EULER_STEPS
    ) -> Tensor:
        chunk = self.policy.model.sample_actions(
            list(pictures), self._ones(pictures), inputs.words, inputs.word_mask, noise=noise, num_steps=steps
        )
        return chunk[..., : inputs.real]


KINDS: dict[str, type[Backbone]] = {"smolvla": SmolVLABackbone, "pi05": Pi05Backbone}
