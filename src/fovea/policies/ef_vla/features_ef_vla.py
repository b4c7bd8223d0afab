"""What the encoder gives to EF-VLA, frozen or not, and how a batch becomes the inputs of the model.

Shape letters: B batch, T time, C cameras, N patches, M words, D joint width, P proprioception.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fovea.actions import axis_angle_to_matrix, matrix_to_rows
from fovea.data.compiled import compiled_encoder
from fovea.encoders import Encoder, create_encoder
from fovea.encoders.openvino import stands_for
from fovea.errors import FoveaError
from fovea.policies.batches import check_axes, check_counts, check_finite_rows
from fovea.policies.ef_vla.configuration_ef_vla import STATE, EFVLAConfig
from fovea.tokens import Tokens

ENCODE_AT_ONCE = 64  # pictures
REMEMBERED_SENTENCES = 4096
IN_RANGE = 1e-2  # beyond [0, 1]: resizing overshoots by so much
FINGER_TRAVEL = 0.04  # metres, of each of LIBERO's two
TOKENS = "observation.language.tokens"
WORDS = "words"  # of a batch: all positions, already encoded


class Features:
    """An encoder behind a configuration: built late, checked against its recorded identity, never saved.

    Batches that carry cached patches (`observation.features.<camera>`) never run its picture tower; sentences are
    encoded once and remembered. Not a module, so that its weights stay out of the policy's. Where vision is trained
    (`config.vision`), `trained` is what the policy saves: the encoder itself (`finetune`), or a vision transformer in
    place of its picture tower (`scratch`); pictures then go through it, with gradients, and cached patches are refused.

    Args:
        config: missing encoder facts are filled in from the encoder.
        encoder: use this encoder instead of building one.
        source: folder of the checkpoint that will be loaded, if one will be.
    """

    def __init__(
        self, config: EFVLAConfig, encoder: Encoder | None = None, source: Path | None = None
    ) -> None:
        self.config, self.source = config, source
        self.trained: nn.Module | None = None
        self._encoder: Encoder | None = None
        self._picture_encoder: Encoder | None = None
        self._sentences: dict[Any, tuple[Tensor, Tensor]] = {}
        missing = config.encoder_width is None or config.encoder_grid is None
        if encoder is not None:
            self._adopt(encoder)
        elif missing or config.vision == "finetune":
            self._adopt(self._build())
        if config.uses_pixels:
            from fovea.policies.ef_vla.vision_ef_vla import ScratchVision, unfreeze

            scratch = config.vision == "scratch"
            self.trained = ScratchVision(config) if scratch else unfreeze(self.encoder)

    @property
    def encoder(self) -> Encoder:
        """The encoder, built at first use.

        Raises:
            FoveaError: it is not the encoder this policy was trained with.
        """
        return self._adopt(self._build()) if self._encoder is None else self._encoder

    @property
    def saved(self) -> bool:
        """Whether the encoder's weights are in the checkpoint that will be loaded."""
        return self.source is not None and self.config.vision == "finetune"

    @property
    def own_clip(self) -> Path | None:
        """The file of a CLIP that came with the checkpoint ("clip:<file>", beside the policy)."""
        family, _, file = self.config.encoder.partition(":")
        if family != "clip" or self.source is None or not (self.source / file).is_file():
            return None
        return self.source / file

    def _build(self) -> Encoder:
        """The encoder that the configuration names; "clip:<file>" is looked for in the checkpoint's folder first."""
        name, tap = self.config.encoder, self.config.tap
        family = name.partition(":")[0]
        if self.own_clip is not None:
            name = f"{family}:{self.own_clip}"
        if self.saved and family == name and "/" in name:
            return create_encoder(name, tap=tap, random_weights=True)
        return create_encoder(name, tap=tap)

    @property
    def picture_encoder(self) -> Encoder:
        """The encoder on `config.encoder_backend`, made or found at first use; for pictures only.

        Raises:
            FoveaError: see `fovea.data.compiled.compiled_encoder`.
        """
        if self.trained is not None and self.config.encoder_backend != "torch":
            raise FoveaError(
                f"expected encoder_backend=torch for a policy with vision={self.config.vision}, got "
                f"{self.config.encoder_backend}: what it trained is no frozen encoder"
            )
        if self._picture_encoder is None:
            self._picture_encoder = compiled_encoder(self.encoder, self.config.encoder_backend)
        return self._picture_encoder

    def _adopt(self, encoder: Encoder) -> Encoder:
        config, identity = self.config, stands_for(encoder)
        if config.vision == "finetune":
            encoder = copy.deepcopy(encoder)  # its weights are about to change: no one else's do
            encoder.__dict__.pop("identity", None)
        if self.saved and config.encoder_identity is not None:
            identity = config.encoder_identity  # where the training began
        if config.encoder_identity not in (None, identity):
            raise FoveaError(
                f"expected the encoder this policy was trained with, {config.encoder} of identity "
                f"{config.encoder_identity[:12]}, got {encoder.name} of identity {identity[:12]}; "
                "restore its weights, tap and preprocessing, or train the policy anew"
            )
        sizes = (encoder.width, encoder.grid)
        if config.vision == "scratch":
            config.set_scratch_grid(config.image_size or encoder.image_size)
            sizes = (encoder.width, config.encoder_grid or encoder.grid)
        if (config.encoder_width or sizes[0], config.encoder_grid or sizes[1]) != sizes:
            raise FoveaError(
                f"expected an encoder of width {config.encoder_width} and grid {config.encoder_grid}, got "
                f"{encoder.name} with {sizes}; leave encoder_width and encoder_grid unset"
            )
        new = config.encoder_identity is None
        config.encoder_identity, config.tap = identity, encoder.tap
        config.encoder_width, config.encoder_grid = sizes
        config.temperature = config.temperature or encoder.temperature
        if new:
            config.check_temperature()
        self._encoder = encoder.freeze()
        return encoder

    def words(self, batch: dict[str, Any], device: torch.device) -> Tokens:
        """Words (B, M, D) of the sentences under `task`, or of token ids; M is the longest one's length.

        Each sentence, in words or token ids, is encoded once and remembered, but for an encoder that is trained.
        Token ids (`observation.language.tokens`, (B, L), of the encoder's own tokenizer) come before sentences.

        Raises:
            FoveaError: neither, or a sentence without any word.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.vision == "finetune"):
            return self.select(self.every_word(batch, device))

    def every_word(self, batch: dict[str, Any], device: torch.device) -> Tokens:
        """All positions (B, M, D) that the encoder knows, whatever the configuration uses of them; see `words`."""
        if WORDS in batch:
            return batch[WORDS]
        if TOKENS in batch:
            encoder: Any = self.encoder.to(device)
            if not hasattr(encoder, "encode_tokens"):
                raise FoveaError(
                    f"expected sentences under `task` for {encoder.name}, got token ids: {TOKENS}"
                )
            ids = batch[TOKENS]
            check_axes(TOKENS, ids, 2, "(B, L)")
            if ids.is_floating_point() or ids.dtype == torch.bool:
                raise FoveaError(f"expected {TOKENS} as whole numbers, got {ids.dtype}")
            if self.config.vision == "finetune":
                return encoder.encode_tokens(ids.to(device))
            return self._remembered(
                [tuple(row) for row in ids.tolist()],
                lambda new: encoder.encode_tokens(torch.tensor(new, device=device)),
                device,
            )
        sentences = batch.get("task")
        if (
            sentences is None
            or isinstance(sentences, str)
            or not all(isinstance(s, str) and s.strip() for s in sentences)
        ):
            raise FoveaError(f"expected one instruction in words per sample under `task`, got {sentences!r}")
        if self.config.vision == "finetune":
            different = list(dict.fromkeys(sentences))
            words = self.encoder.to(device).encode_text(different)
            rows = torch.tensor([different.index(s) for s in sentences], device=device)
            return Tokens(words.values[rows], words.mask[rows])
        return self._remembered(sentences, lambda new: self.encoder.to(device).encode_text(new), device)

    def _remembered(
        self, sentences: Sequence[Any], encode: Callable[[list[Any]], Tokens], device: torch.device
    ) -> Tokens:
        """The words of sentences (or of their token ids); those that are new are encoded."""
        new = [s for s in dict.fromkeys(sentences) if s not in self._sentences]
        if new:
            if len(self._sentences) > REMEMBERED_SENTENCES:
                self._sentences.clear()
                new = list(dict.fromkeys(sentences))
            with torch.autocast(device.type, enabled=False):  # what is remembered must not depend on who asks
                words = encode(new)
            for sentence, values, mask in zip(new, words.values, words.mask, strict=True):
                self._sentences[sentence] = values, mask
        known = [self._sentences[s] for s in sentences]
        return Tokens(
            torch.stack([v for v, _ in known]).to(device), torch.stack([m for _, m in known]).to(device)
        )

    def select(self, words: Tokens) -> Tokens:
        """The positions that the configuration uses: words, or the first `word_positions` of whatever kind."""
        values, mask, first = words.values, words.mask, self.config.word_positions
        if first is not None:
            values, mask = values[:, :first], mask[:, :first]
            if not self.config.pool_true_text:
                return Tokens(values, torch.ones_like(mask))
        if not mask.any(dim=1).all():
            raise FoveaError("expected instructions with at least one word each, got one without any")
        last = values.shape[1] if first is not None else int(mask.any(0).nonzero().max()) + 1
        return Tokens(values[:, :last], mask[:, :last])

    def patches(self, batch: dict[str, Any], time: bool, device: torch.device) -> Tensor:
        """Cached or freshly encoded patches (B, T, C, N, D); `time`: the batch has a time axis."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trained is not None):
            return self._patches(batch, time, device)

    def _patches(self, batch: dict[str, Any], time: bool, device: torch.device) -> Tensor:
        keys = self.config.camera_keys
        cached = [feature_key(key) for key in keys]
        if self.trained is not None and any(key in batch for key in cached):
            raise FoveaError(
                f"expected pictures ({', '.join(keys)}), got cached features: with vision={self.config.vision} the "
                "features change as the policy learns; leave them out of the batch"
            )
        frame = "(B, T, " if time else "(B, "
        if all(key in batch for key in cached):
            for key in cached:
                check_axes(key, batch[key], 3 + time, f"{frame}N, D)")
            patches = stack_cameras([batch[key] for key in cached], device)
        elif all(key in batch for key in keys):
            pictures = [batch[key] for key in keys]
            for key, picture in zip(keys, pictures, strict=True):
                check_axes(key, picture, 4 + time, f"{frame}3, h, w)")
                if picture.shape[-3] != 3 or 0 in picture.shape[-2:]:
                    raise FoveaError(
                        f"expected {key} of shape {frame}3, h, w), RGB, got {tuple(picture.shape)}"
                    )
            check_counts(
                {key: picture.shape[:-3].numel() for key, picture in zip(keys, pictures, strict=True)}
            )
            lead = pictures[0].shape[:-3]
            flat = [to_uint8(picture.flatten(0, -4)) for picture in pictures]
            if len({picture.shape[-2:] for picture in flat}) == 1:
                encoded = self._encode(torch.cat(flat), device).unflatten(0, (len(flat), -1))
            else:
                encoded = torch.stack([self._encode(picture, device) for picture in flat])
            patches = encoded.transpose(0, 1).unflatten(0, lead)
        else:
            raise FoveaError(
                f"expected all of {keys} or all of {cached} in the batch, got {sorted(batch)}; "
                "rename the cameras or set input_features"
            )
        patches = patches.to(device)
        patches = patches if time else patches[:, None]
        grid = self.config.encoder_grid or (0, 0)
        expected = (len(keys), grid[0] * grid[1], self.config.encoder_width)
        if patches.ndim != 5 or tuple(patches.shape[2:]) != expected:
            raise FoveaError(
                f"expected patches (B, T, C, N, D) with C, N, D = {expected}, got {tuple(patches.shape)}; "
                "was the feature cache made with another encoder?"
            )
        return patches

    def _encode(self, pictures: Tensor, device: torch.device) -> Tensor:
        parts = pictures.to(device).split(ENCODE_AT_ONCE)
        if self.trained is not None and self.config.vision == "scratch":
            return torch.cat([self.trained(part) for part in parts])
        if self.trained is not None:
            encoder = self.encoder.to(device)
            return torch.cat([encoder.encode_image(part).values for part in parts])
        frozen = self.picture_encoder.to(device)
        with torch.autocast(device.type, enabled=False):  # its features are those of the cache
            return torch.cat([frozen.encode_image(part).values for part in parts])

    def proprio(self, batch: dict[str, Any], time: bool, device: torch.device) -> Tensor | None:
        """The state as the model sees it: (B, T, P), or None if neither branch nor action space needs it."""
        if not self.config.use_proprio and self.config.action_space == "env":
            return None
        if STATE not in batch:
            raise FoveaError(f"expected {STATE} in the batch, got {sorted(batch)}; or set use_proprio=false")
        check_axes(STATE, batch[STATE], 2 + time, "(B, T, P)" if time else "(B, P)")
        state = batch[STATE].to(device, torch.float32)
        if not time:
            check_finite_rows(STATE, state)
            state = state[:, None]
        if self.config.state_layout == "axis_angle":
            fingers, state = state.shape[-1] == 8, proprio_from_axis_angle(state)
            if self.config.action_space == "se3_relative" and fingers:  # unscaled: 0 (closed) to 1
                opening = (state[..., 9:] / FINGER_TRAVEL).clamp(0, 1)
                state = torch.cat([state[..., :9], opening], dim=-1)
        if state.shape[-1] != self.config.proprio_size:
            raise FoveaError(
                f"expected {STATE} of {self.config.proprio_size} numbers, as the policy has it, got {state.shape[-1]}"
            )
        return state


def feature_key(camera_key: str) -> str:
    """Name of a camera's cached patches: observation.images.image -> observation.features.image."""
    name = camera_key.removeprefix("observation.").removeprefix("images.")
    return f"observation.features.{name}"


def stack_cameras(cameras: Sequence[Tensor], device: torch.device) -> Tensor:
    """Patches of each camera (..., N, D), half or single precision -> (..., C, N, D) single, in one pass."""
    shape = cameras[0].shape
    if any(camera.shape != shape for camera in cameras):
        raise FoveaError(f"expected one shape of patches, got {[tuple(camera.shape) for camera in cameras]}")
    stacked = torch.empty(*shape[:-2], len(cameras), *shape[-2:], device=device)
    for index, camera in enumerate(cameras):
        stacked.select(-3, index).copy_(camera)
    return stacked


def to_uint8(pictures: Tensor) -> Tensor:
    """Pictures as the encoder takes them: uint8, or floats in [0, 1], as LeRobot decodes them.

    Raises:
        FoveaError: another range or type: 0..255 as floats would come out white.
    """
    if pictures.dtype == torch.uint8:
        return pictures
    if not pictures.dtype.is_floating_point:
        raise FoveaError(f"expected pictures as uint8, or floats in [0, 1], got {pictures.dtype}")
    low, high = pictures.aminmax() if pictures.numel() else (pictures.new_zeros(()), pictures.new_ones(()))
    if not (low >= -IN_RANGE and high <= 1 + IN_RANGE):
        raise FoveaError(
            f"expected pictures as uint8, or floats in [0, 1], got {low.item():.3g} to {high.item():.3g}; divide by "
            "255, and leave normalising to the encoder"
        )
    return (pictures.float() * 255).round().clamp(0, 255).to(torch.uint8)


def proprio_from_axis_angle(state: Tensor) -> Tensor:
    """xyz, axis-angle, gripper (1 or 2 fingers) -> xyz, first two rows of R, one opening: (..., 7 or 8) -> (..., 10).

    LIBERO's fingers mirror one another: the opening is half their difference.
    """
    if state.shape[-1] not in (7, 8):
        raise FoveaError(
            f"expected a state of 7 or 8 numbers (xyz, axis-angle, gripper), got {state.shape[-1]}; "
            "set state_layout=as_is for another robot"
        )
    rows = matrix_to_rows(axis_angle_to_matrix(state[..., 3:6]))
    gripper = state[..., 6:7] if state.shape[-1] == 7 else (state[..., 6:7] - state[..., 7:8]) / 2
    return torch.cat([state[..., :3], rows, gripper], dim=-1)
