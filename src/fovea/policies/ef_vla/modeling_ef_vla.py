"""EF-VLA as a LeRobot policy.

Shape letters: B batch, T time, C cameras, N patches, M words, D joint width, W policy width, H horizon, A action.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors import safe_open
from torch import Tensor

from fovea.actions import ChunkEnsemble, absolute_chunk, axis_angle_to_matrix, matrix_to_rows, relative_chunk
from fovea.encoders import Encoder, create_encoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import ACTION, STATE, EFVLAConfig
from fovea.policies.ef_vla.model_ef_vla import EFVLAModel
from fovea.tokens import Tokens

ENCODE_AT_ONCE = 64  # pictures
REMEMBERED_SENTENCES = 4096


@dataclass
class EpisodeState:
    """One episode's memory: its last T policy tokens (W,) and the actions it still has to play.

    `EFVLAPolicy.new_episode` makes one; a new episode needs a new one.
    """

    tokens: list[Tensor] = field(default_factory=list)
    pending: deque[Tensor] = field(default_factory=deque)
    ensemble: ChunkEnsemble | None = None


@dataclass(frozen=True)
class WordAttention:
    """Where every word looks: weights (B, T, C, M, rows, columns), mask (B, M) of words, camera keys in order."""

    weights: Tensor
    mask: Tensor
    cameras: list[str]


class EFVLAPolicy(PreTrainedPolicy):
    """EF-VLA behind LeRobot's interface; LF-VLA with `config.fusion = "late"`.

    The encoder is frozen and no part of the weights: it is built from its name when words or pictures first
    come in, and must have the identity that the configuration recorded. Batches that carry cached patches
    (`observation.features.<camera>`) never run its picture tower; sentences are encoded once and remembered.

    Args:
        config: the configuration; missing encoder facts are filled in from the encoder.
        encoder: use this encoder instead of building one (several policies may share it).
        dataset_stats, dataset_meta: LeRobot's; not used, scaling is the processors' work.
    """

    config_class = EFVLAConfig
    name = "ef_vla"
    config: EFVLAConfig

    def __init__(
        self,
        config: EFVLAConfig,
        *,
        encoder: Encoder | None = None,
        dataset_stats: dict[str, Any] | None = None,
        dataset_meta: Any = None,
    ) -> None:
        super().__init__(config)
        if config.input_features:
            config.validate_features()
        object.__setattr__(self, "_encoder", None)  # not a submodule: stays out of the state dict
        self._sentences: dict[str, tuple[Tensor, Tensor]] = {}
        if encoder is not None:
            self._adopt(encoder)
        elif config.encoder_width is None or config.encoder_grid is None:
            self._adopt(create_encoder(config.encoder, tap=config.tap))
        self.model = EFVLAModel(config)
        self.reset()

    # -- the encoder ---------------------------------------------------------------------------------------

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder, built at first use.

        Raises:
            FoveaError: it is not the encoder this policy was trained with.
        """
        encoder = self.__dict__["_encoder"]
        return (
            self._adopt(create_encoder(self.config.encoder, tap=self.config.tap))
            if encoder is None
            else encoder
        )

    def _adopt(self, encoder: Encoder) -> Encoder:
        config = self.config
        if config.encoder_identity not in (None, encoder.identity):
            raise FoveaError(
                f"expected the encoder this policy was trained with, {config.encoder} of identity "
                f"{config.encoder_identity[:12]}, got {encoder.name} of identity {encoder.identity[:12]}; "
                "restore its weights, tap and preprocessing, or train the policy anew"
            )
        sizes = (encoder.width, encoder.grid)
        if (config.encoder_width or sizes[0], config.encoder_grid or sizes[1]) != sizes:
            raise FoveaError(
                f"expected an encoder of width {config.encoder_width} and grid {config.encoder_grid}, got "
                f"{encoder.name} with {sizes}; leave encoder_width and encoder_grid unset"
            )
        config.encoder_identity, config.tap = encoder.identity, encoder.tap
        config.encoder_width, config.encoder_grid = sizes
        config.temperature = config.temperature or encoder.temperature
        object.__setattr__(self, "_encoder", encoder.freeze())
        return encoder

    @property
    def _device(self) -> torch.device:
        return self.model.input.weight.device

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tokens:
        """Sentences -> words (B, M, D), each sentence encoded once; M is the longest one's length.

        Raises:
            FoveaError: not a list of sentences, or one without any word.
        """
        if isinstance(sentences, str) or not all(isinstance(s, str) and s.strip() for s in sentences):
            raise FoveaError(f"expected one instruction in words per sample under `task`, got {sentences!r}")
        new = [s for s in dict.fromkeys(sentences) if s not in self._sentences]
        if new:
            if len(self._sentences) > REMEMBERED_SENTENCES:
                self._sentences.clear()
                new = list(dict.fromkeys(sentences))
            words = self.encoder.to(self._device).encode_text(new)
            for sentence, values, mask in zip(new, words.values, words.mask, strict=True):
                if not mask.any():
                    raise FoveaError(f"expected an instruction with at least one word, got {sentence!r}")
                self._sentences[sentence] = values, mask
        known = [self._sentences[s] for s in sentences]
        values = torch.stack([v for v, _ in known]).to(self._device)
        mask = torch.stack([m for _, m in known]).to(self._device)
        if self.config.word_positions is not None:
            values = values[:, : self.config.word_positions]
            return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
        last = int(mask.any(0).nonzero().max()) + 1
        return Tokens(values[:, :last], mask[:, :last])

    @torch.no_grad()
    def _patches(self, batch: dict[str, Any], time: bool) -> Tensor:
        """Cached or freshly encoded patches (B, T, C, N, D); `time`: the batch has a time axis."""
        keys = self.config.camera_keys
        cached = [feature_key(key) for key in keys]
        if all(key in batch for key in cached):
            patches = torch.stack([batch[key] for key in cached], dim=-3)
        elif all(key in batch for key in keys):
            pictures = [batch[key] for key in keys]
            lead = pictures[0].shape[:-3]
            flat = [to_uint8(picture.flatten(0, -4)) for picture in pictures]
            if len({picture.shape[-2:] for picture in flat}) == 1:
                encoded = self._encode_images(torch.cat(flat)).unflatten(0, (len(flat), -1))
            else:
                encoded = torch.stack([self._encode_images(picture) for picture in flat])
            patches = encoded.transpose(0, 1).unflatten(0, lead)
        else:
            raise FoveaError(
                f"expected all of {keys} or all of {cached} in the batch, got {sorted(batch)}; "
                "rename the cameras or set input_features"
            )
        patches = patches.to(self._device)
        patches = patches if time else patches[:, None]
        grid = self.config.encoder_grid or (0, 0)
        expected = (len(keys), grid[0] * grid[1], self.config.encoder_width)
        if patches.ndim != 5 or tuple(patches.shape[2:]) != expected:
            raise FoveaError(
                f"expected patches (B, T, C, N, D) with C, N, D = {expected}, got {tuple(patches.shape)}; "
                "was the feature cache made with another encoder?"
            )
        return patches

    def _encode_images(self, pictures: Tensor) -> Tensor:
        encoder = self.encoder.to(self._device)
        parts = pictures.to(self._device).split(ENCODE_AT_ONCE)
        return torch.cat([encoder.encode_image(part).values for part in parts])

    def _proprio(self, batch: dict[str, Any], time: bool) -> Tensor | None:
        """The state as the model sees it: (B, T, P), or None if neither branch nor action space needs it."""
        if not self.config.use_proprio and self.config.action_space == "env":
            return None
        if STATE not in batch:
            raise FoveaError(f"expected {STATE} in the batch, got {sorted(batch)}; or set use_proprio=false")
        state = batch[STATE].to(self._device, torch.float32)
        state = state if time else state[:, None]
        return proprio_from_axis_angle(state) if self.config.state_layout == "axis_angle" else state

    # -- training ------------------------------------------------------------------------------------------

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, Any]]:
        """Loss of windows (B, T, ...), masked where `action_is_pad` or the frame itself is padding.

        Padded frames are moved behind the real ones, so that a window that begins before its episode looks as
        at inference: the first real frame comes first.

        Returns:
            the loss, a scalar or (B,) with reduction `none`, and its parts as numbers.
        """
        config = self.config
        if reduction not in ("mean", "none"):
            raise FoveaError(f"expected reduction mean or none, got {reduction!r}")
        tokens = self.model.tokens(
            self._patches(batch, time=True), self.encode_text(batch["task"]), self._proprio(batch, time=True)
        )
        time, horizon = config.n_obs_steps, config.chunk_size
        actions = batch[ACTION].to(self._device, torch.float32)
        if tokens.shape[1] != time or actions.shape[1:] != (time + horizon - 1, config.action_size):
            raise FoveaError(
                f"expected windows of {time} frames with actions of shape (B, {time + horizon - 1}, "
                f"{config.action_size}), got {tokens.shape[1]} frames and actions {tuple(actions.shape)}"
            )
        target = actions.unfold(1, horizon, 1).transpose(-1, -2)
        mask = torch.ones(actions.shape[:2], dtype=torch.bool, device=self._device)
        if "action_is_pad" in batch:
            mask = ~batch["action_is_pad"].to(self._device)
        mask = mask.unfold(1, horizon, 1)
        if config.action_space == "se3_relative":
            target = relative_chunk(self._poses(batch, time=True), target)
        padded = batch.get(f"{STATE}_is_pad")
        if padded is not None and padded.any():
            padded = padded.to(self._device)
            order = padded.to(torch.uint8).argsort(dim=1, stable=True)
            tokens = tokens.gather(1, order[..., None].expand_as(tokens))
            target = target.gather(1, order[..., None, None].expand_as(target))
            mask = (mask & ~padded[..., None]).gather(1, order[..., None].expand_as(mask))
        loss, parts = self.model.head.loss(self.model.predict(tokens), target, mask)
        weight = mask.flatten(1).sum(1).to(loss.dtype)
        weight = weight / weight.sum().clamp(min=1)  # every real action counts the same
        info = {name: (value.detach() * weight).sum().item() for name, value in parts.items()}
        return (loss if reduction == "none" else (loss * weight).sum()), info

    def _poses(self, batch: dict[str, Any], time: bool) -> Tensor:
        poses = self._proprio(batch, time)
        assert poses is not None
        return poses

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Two groups: matrices with weight decay; norms, biases, queries' scale and tau without."""
        decayed, free = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                exempt = parameter.ndim < 2 or name.endswith("log_scale")
                (free if exempt else decayed).append(parameter)
        return [{"params": decayed}, {"params": free, "weight_decay": 0.0}]

    # -- acting --------------------------------------------------------------------------------------------

    def new_episode(self) -> EpisodeState:
        """Memory for an episode that begins."""
        config = self.config
        if config.temporal_ensemble == "none":
            return EpisodeState()
        poses = config.action_space == "se3_relative"
        ensemble = ChunkEnsemble(config.temporal_ensemble, config.temporal_ensemble_coeff, poses=poses)
        return EpisodeState(ensemble=ensemble)

    @torch.no_grad()
    def act(self, states: Sequence[EpisodeState], batch: dict[str, Any]) -> Tensor:
        """One action for each of B episodes, whatever their lengths so far.

        Every picture is encoded; the transformer runs for the episodes that have played their chunk (receding
        horizon), or for all (temporal ensembling).

        Args:
            states: B memories, changed in place.
            batch: single frames, preprocessed: cameras (B, 3, h, w), state (B, 8), task: B sentences.

        Returns:
            (B, A), still scaled like the dataset's actions; the post-processor undoes that.
        """
        self._observe(states, batch)
        due = [i for i, state in enumerate(states) if state.ensemble is not None or not state.pending]
        if due:
            for i, chunk in zip(due, self._chunks(states, batch, due), strict=True):
                chunk, ensemble = chunk[: self.config.n_action_steps], states[i].ensemble
                states[i].pending.extend(chunk if ensemble is None else [ensemble.push(chunk)])
        return self._finish(torch.stack([state.pending.popleft() for state in states]))

    def _observe(self, states: Sequence[EpisodeState], batch: dict[str, Any]) -> None:
        """Append this frame's policy token to every episode's memory."""
        self.eval()
        tokens = self.model.tokens(
            self._patches(batch, time=False),
            self.encode_text(batch["task"]),
            self._proprio(batch, time=False),
        )[:, 0]
        if len(tokens) != len(states):
            raise FoveaError(f"expected a batch of {len(states)} frames, one an episode, got {len(tokens)}")
        for state, token in zip(states, tokens, strict=True):
            state.tokens = [*state.tokens, token][-self.config.n_obs_steps :]

    def _chunks(self, states: Sequence[EpisodeState], batch: dict[str, Any], due: Sequence[int]) -> Tensor:
        """Chunks (K, H, A) of the episodes that are due, from windows padded behind (causal: it cannot matter)."""
        lengths = [len(states[i].tokens) for i in due]
        windows = torch.zeros(len(due), max(lengths), self.config.dim_model, device=self._device)
        for row, i in enumerate(due):
            windows[row, : lengths[row]] = torch.stack(states[i].tokens)
        raw = self.model.predict(windows)[torch.arange(len(due)), torch.tensor(lengths) - 1]
        chunks = self.model.head.decode(raw)
        if self.config.action_space == "se3_relative":
            chunks = absolute_chunk(self._poses(batch, time=False)[list(due), 0], chunks)
        return chunks

    def _finish(self, actions: Tensor) -> Tensor:
        """A gripper trained by cross-entropy opens or closes, nothing in between."""
        if self.config.gripper_loss == "bce":
            close = torch.where(actions[..., -1:] > 0, 1.0, -1.0)
            actions = torch.cat([actions[..., :-1], close], dim=-1)
        return actions

    def reset(self) -> None:
        """Forget the episodes behind `select_action`. Call it whenever an episode begins."""
        self._states: list[EpisodeState] = []

    def _own_states(self, batch: dict[str, Any]) -> list[EpisodeState]:
        if not self._states:
            self._states = [self.new_episode() for _ in batch["task"]]
        return self._states

    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """LeRobot: (B, A) for single frames; the history is kept inside, see `reset`."""
        return self.act(self._own_states(batch), batch)

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """LeRobot: the whole chunk (B, H, A) for single frames, which join the history inside."""
        states = self._own_states(batch)
        self._observe(states, batch)
        return self._finish(self._chunks(states, batch, range(len(states))))

    @torch.no_grad()
    def attention(self, batch: dict[str, Any]) -> WordAttention:
        """Word-to-patch maps of frames (B, ...) or windows (B, T, ...); early fusion only."""
        keys = self.config.camera_keys
        key, frame_axes = (keys[0], 4) if keys[0] in batch else (feature_key(keys[0]), 3)
        patches = self._patches(batch, time=key in batch and batch[key].ndim > frame_axes)
        words = self.encode_text(batch["task"])
        grid = self.config.encoder_grid or (0, 0)
        return WordAttention(self.model.attention(patches, words).unflatten(-1, grid), words.mask, keys)

    # -- loading -------------------------------------------------------------------------------------------

    @classmethod
    def _load_as_safetensor(cls, model, model_file: str, map_location: str, strict: bool):  # type: ignore[override]
        """Load weights; missing, unexpected or misshapen ones are always refused (LeRobot would not mind)."""
        if not Path(model_file).is_file():
            raise FoveaError(
                f"expected weights in {model_file}, found no such file; is this a policy's folder?"
            )
        with safe_open(model_file, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        problems = [
            *(f"missing {key}" for key in sorted(wanted.keys() - found.keys())),
            *(f"unexpected {key}" for key in sorted(found.keys() - wanted.keys())),
            *(
                f"{key} has shape {found[key]} instead of {wanted[key]}"
                for key in sorted(wanted.keys() & found.keys())
                if found[key] != wanted[key]
            ),
        ]
        if problems:
            raise FoveaError(
                f"expected {model_file} to hold exactly the weights that its configuration describes, got:\n  "
                + "\n  ".join(problems)
            )
        return super()._load_as_safetensor(model, model_file, map_location, strict=True)


def feature_key(camera_key: str) -> str:
    """Name of a camera's cached patches: observation.images.image -> observation.features.image."""
    return f"observation.features.{camera_key.rsplit('.', 1)[-1]}"


def to_uint8(pictures: Tensor) -> Tensor:
    """Pictures as the encoder takes them; floats are expected in [0, 1], as LeRobot decodes them."""
    if pictures.dtype == torch.uint8:
        return pictures
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
