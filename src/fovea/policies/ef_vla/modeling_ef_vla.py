"""EF-VLA as a LeRobot policy.

Shape letters: B batch, T time, C cameras, N patches, M words, D joint width, W policy width, H horizon, A action.
"""

import shutil
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from fovea.actions import ChunkEnsemble, absolute_chunk, action_towards, relative_chunk
from fovea.encoders import Encoder
from fovea.errors import FoveaError
from fovea.policies.batches import check_counts, forget, padding, rows
from fovea.policies.checked import CheckedWeights, policy_folder
from fovea.policies.ef_vla.configuration_ef_vla import ACTION, STATE, EFVLAConfig
from fovea.policies.ef_vla.features_ef_vla import TOKENS, WORDS, Features, feature_key
from fovea.policies.ef_vla.model_ef_vla import EFVLAModel
from fovea.tokens import Tokens


@dataclass
class EpisodeState:
    """One episode's memory: its last T policy tokens (W,), the actions it still has to play, and how many of them it
    plays before it looks again.

    `EFVLAPolicy.new_episode` makes one; a new episode needs a new one. Words are kept here where the encoder is
    trained, so that nobody else can remember them.
    """

    tokens: list[Tensor] = field(default_factory=list)
    pending: deque[Tensor] = field(default_factory=deque)
    blind: int = 0
    ensemble: ChunkEnsemble | None = None
    sentence: str | None = None
    words: Tokens | None = None


@dataclass(frozen=True)
class WordAttention:
    """Where every word looks: weights (B, T, C, M, rows, columns), mask (B, M) of words, camera keys in order."""

    weights: Tensor
    mask: Tensor
    cameras: list[str]


@dataclass(frozen=True)
class PoolingAttention:
    """Where readouts look: weights (blocks, B, T, C, heads, R, N), `grid` of a camera's N patches, camera keys."""

    weights: Tensor
    grid: tuple[int, int]
    cameras: list[str]


class EFVLAPolicy(CheckedWeights, PreTrainedPolicy):
    """EF-VLA behind LeRobot's interface; LF-VLA with `config.fusion = "late"`.

    The encoder is frozen and no part of the weights: it is built from its name when words or pictures first
    come in, and must have the identity that the configuration recorded. Batches that carry cached patches
    (`observation.features.<camera>`) never run its picture tower; sentences are encoded once and remembered.

    With `config.vision` other than `frozen`, what is trained is the module `vision`, part of the weights, and batches
    carry pictures.

    Args:
        config: the configuration; missing encoder facts are filled in from the encoder.
        encoder: use this encoder instead of building one (several policies may share it; one that is to be trained is
            copied).
        source: folder of the checkpoint whose weights will be loaded; `from_pretrained` says so.
        dataset_stats: LeRobot's; they only tell whether the last action is a gripper that opens or closes.
        dataset_meta: LeRobot's, not used: scaling is the processors' work.

    Raises:
        FoveaError: features or statistics of the dataset do not fit the configuration.
    """

    config_class = EFVLAConfig
    name = "ef_vla"
    config: EFVLAConfig

    def __init__(
        self,
        config: EFVLAConfig,
        *,
        encoder: Encoder | None = None,
        source: Path | None = None,
        dataset_stats: dict[str, Any] | None = None,
        dataset_meta: Any = None,
    ) -> None:
        super().__init__(config)
        if config.input_features:
            config.validate_features()
        config.check_data(dataset_stats)
        self._features = Features(config, encoder, source)
        self.model = EFVLAModel(config)
        self.vision = self._features.trained
        self.reset()

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **kwargs: Any) -> Self:
        """LeRobot's, for a folder or a name on the hub, where a CLIP may lie beside the weights."""
        folder = policy_folder(pretrained_name_or_path, **kwargs)
        return super().from_pretrained(folder, source=folder, **kwargs)

    def _save_pretrained(self, save_directory: Path, *args: Any, **kwargs: Any) -> None:
        """LeRobot's; a CLIP that came beside the policy goes along."""
        super()._save_pretrained(save_directory, *args, **kwargs)
        clip = self._features.own_clip
        if clip is not None and not (Path(save_directory) / clip.name).exists():
            shutil.copyfile(clip, Path(save_directory) / clip.name)

    @property
    def encoder(self) -> Encoder:
        """The encoder, built at first use; see `Features`."""
        return self._features.encoder

    @property
    def picture_encoder(self) -> Encoder:
        """The encoder on `config.encoder_backend`, which pictures go through; see `Features`."""
        return self._features.picture_encoder

    def _inputs(self, batch: dict[str, Any], time: bool) -> tuple[Tensor, Tokens, Tensor | None]:
        """Patches (B, T, C, N, D), words (B, M, D) and proprioception (B, T, P) of windows or (T = 1) frames."""
        device, features = self.model.input.weight.device, self._features
        patches = features.patches(batch, time, device)
        words, proprio = features.words(batch, device), features.proprio(batch, time, device)
        counts = {"pictures": len(patches), "instructions": len(words.values)}
        check_counts(counts if proprio is None else counts | {"states": len(proprio)})
        return patches, words, proprio

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
        patches, words, proprio = self._inputs(batch, time=True)
        tokens = self.model.tokens(patches, words, proprio)
        time, horizon, stride = config.n_obs_steps, config.chunk_size, config.obs_stride
        steps = (time - 1) * stride + horizon
        if ACTION not in batch:
            raise FoveaError(f"expected {ACTION} in a batch to learn from, got {sorted(batch)}")
        actions = batch[ACTION].to(tokens.device, torch.float32)
        if tokens.shape[1] != time or actions.shape[1:] != (steps, config.action_size):
            raise FoveaError(
                f"expected windows of {time} frames with actions of shape (B, {steps}, "
                f"{config.action_size}), got {tokens.shape[1]} frames and actions {tuple(actions.shape)}"
                + ("; `fovea train` turns LIBERO's changes of pose into poses" if config.plays_libero else "")
            )
        target = actions.unfold(1, horizon, stride).transpose(-1, -2)
        check_counts({"windows": len(tokens), "actions": len(actions)})
        mask = torch.ones(actions.shape[:2], dtype=torch.bool, device=tokens.device)
        if (beyond := padding(batch, "action_is_pad", actions.shape[:2], tokens.device)) is not None:
            mask = ~beyond
        mask = mask.unfold(1, horizon, stride)
        if config.action_space == "se3_relative" and proprio is not None:
            target = relative_chunk(proprio, target)
        names = (f"{key}_is_pad" for key in (STATE, *config.camera_keys))
        known = next((name for name in names if name in batch), "")
        padded = padding(batch, known, tokens.shape[:2], tokens.device)
        if padded is not None and padded.any():
            order = padded.to(torch.uint8).argsort(dim=1, stable=True)
            tokens = tokens.gather(1, order[..., None].expand_as(tokens))
            target = target.gather(1, order[..., None, None].expand_as(target))
            mask = (mask & ~padded[..., None]).gather(1, order[..., None].expand_as(mask))
        loss, parts = self.model.head.loss(self.model.predict(tokens), target, mask)
        real = mask.flatten(1).sum(1).to(loss.dtype)
        weight = real / real.sum().clamp(min=1)  # every real action counts the same
        info = {name: (value.detach() * weight).sum().item() for name, value in parts.items()}
        info["weight"] = (
            real.sum().item()
        )  # how many actions the mean is over: the trainer averages over processes
        return (loss if reduction == "none" else (loss * weight).sum()), info

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Two groups: matrices with weight decay; norms, biases, queries' scale and tau without.

        Two more for an encoder that is finetuned, with a learning rate of their own.
        """
        groups: list[dict[str, Any]] = []
        finetuned = {"lr": self.config.optimizer_lr_vision} if self.config.vision == "finetune" else {}
        for vision, rate in ((False, {}), (True, finetuned)):
            named = [
                (name, parameter)
                for name, parameter in self.named_parameters()
                if parameter.requires_grad and (bool(finetuned) and name.startswith("vision.")) == vision
            ]
            exempt = {name for name, p in named if p.ndim < 2 or name.endswith("log_scale")}
            groups.append({"params": [p for name, p in named if name not in exempt], **rate})
            groups.append({"params": [p for name, p in named if name in exempt], "weight_decay": 0.0, **rate})
        return [group for group in groups if group["params"]]

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

        Every picture of the context is encoded (each `obs_stride`-th frame); the transformer runs for the episodes
        that have played their chunk (receding horizon), or for all (temporal ensembling).

        Args:
            states: B memories, changed in place.
            batch: single frames, preprocessed: cameras (B, 3, h, w), state (B, 8), task: B sentences.

        Returns:
            (B, A), still scaled like the dataset's actions; the post-processor undoes that.
        """
        self._check_count(states, batch)
        looking = [i for i, state in enumerate(states) if not state.blind]
        if looking:
            some = batch if len(looking) == len(states) else rows(batch, looking, len(states))
            self._observe([states[i] for i in looking], some)
        for i in looking:
            states[i].blind = self.config.obs_stride
        proprio = self._pose(batch)
        due = [i for i in looking if states[i].ensemble is not None or not states[i].pending]
        if due:
            for i, chunk in zip(due, self._chunks(states, proprio, due), strict=True):
                chunk, ensemble = chunk[: self.config.n_action_steps], states[i].ensemble
                states[i].pending.extend(chunk if ensemble is None else [ensemble.push(chunk)])
        actions = torch.stack([self._next(state) for state in states])
        if self.config.plays_libero and proprio is not None:
            actions = action_towards(proprio[:, 0], actions)
        return self._finish(actions)

    @torch.no_grad()
    def act_blind(self, state: EpisodeState) -> Tensor:
        """The actions (K, A) that follow in an episode before a frame is looked at again; K may be 0.

        Whoever simulates need not draw these frames. LIBERO's changes of pose (`se3_relative`) depend on where the
        arm is, so there K is 0.
        """
        count = 0 if self.config.plays_libero else state.blind
        actions = [self._next(state) for _ in range(count)]
        return self._finish(torch.stack(actions)) if actions else torch.empty(0, self.config.action_size)

    def _next(self, state: EpisodeState) -> Tensor:
        state.blind -= 1
        return state.pending.popleft()

    def _pose(self, batch: dict[str, Any]) -> Tensor | None:
        """Proprioception (B, 1, P) of frames, where actions are relative to it."""
        if self.config.action_space != "se3_relative":
            return None
        return self._features.proprio(batch, False, self.model.input.weight.device)

    def _check_count(self, states: Sequence[EpisodeState], batch: dict[str, Any]) -> None:
        if _frames(batch) != len(states):
            raise FoveaError(
                f"expected a batch of {len(states)} frames, one an episode, got {_frames(batch)}; "
                "call reset() when episodes begin"
            )
        cameras = self.config.camera_keys
        keys = (key for key in (*cameras, *map(feature_key, cameras), STATE) if key in batch)
        tensors = {key: batch[key] for key in keys if isinstance(batch[key], Tensor) and batch[key].ndim}
        check_counts({"task": len(states)} | {key: len(value) for key, value in tensors.items()})

    def _observe(self, states: Sequence[EpisodeState], batch: dict[str, Any]) -> None:
        """Append this frame's policy token to every episode's memory."""
        self.eval()
        self._check_count(states, batch)
        if self.config.vision == "finetune" and TOKENS not in batch:
            batch = {**batch, WORDS: self._episode_words(states, batch["task"])}
        patches, words, proprio = self._inputs(batch, time=False)
        tokens = self.model.tokens(patches, words, proprio)[:, 0]
        for state, token in zip(states, tokens, strict=True):
            state.tokens = [*state.tokens, token][-self.config.n_obs_steps :]

    def _chunks(self, states: Sequence[EpisodeState], proprio: Tensor | None, due: Sequence[int]) -> Tensor:
        """Chunks (K, H, A) of the episodes that are due, from windows padded behind (causal: it cannot matter)."""
        lengths = [len(states[i].tokens) for i in due]
        windows = states[0].tokens[0].new_zeros(len(due), max(lengths), self.config.dim_model)
        for row, i in enumerate(due):
            windows[row, : lengths[row]] = torch.stack(states[i].tokens)
        chunks = self.model.head.decode(self.model.last(windows, torch.tensor(lengths)).float())
        if self.config.action_space == "se3_relative" and proprio is not None:
            chunks = absolute_chunk(proprio[list(due), 0], chunks)
        return chunks

    def _finish(self, actions: Tensor) -> Tensor:
        """In full precision, as robots take it; a gripper trained by cross-entropy opens or closes, nothing between."""
        actions = actions.float()
        if self.config.gripper_loss == "bce":
            close = torch.where(actions[..., -1:] > 0, 1.0, -1.0)
            actions = torch.cat([actions[..., :-1], close], dim=-1)
        return actions

    def reset(self, environments: Sequence[int] | Sequence[bool] | None = None) -> None:
        """Forget the episodes behind `select_action`: all, or those of some environments of the batch.

        Call it whenever an episode begins. Environments whose episodes end at different times are reset alone, by
        their place in the batch (or with one truth value for each), and do not disturb the others.

        Raises:
            FoveaError: there is no such environment.
        """
        if environments is None:
            self._states: list[EpisodeState] = []
        else:
            forget(self._states, environments, self.new_episode)

    def _own_states(self, batch: dict[str, Any]) -> list[EpisodeState]:
        """The memories inside; before the first action new ones, which are kept once a batch has been acted on."""
        return self._states or [self.new_episode() for _ in range(_frames(batch))]

    def _episode_words(self, states: Sequence[EpisodeState], sentences: Sequence[str]) -> Tokens:
        """Every position (B, M, D) of each episode's sentence, encoded when the episode begins."""
        new = [i for i, state in enumerate(states) if state.sentence != sentences[i]]
        if new:
            device = self.model.input.weight.device
            words = self._features.every_word({"task": [sentences[i] for i in new]}, device)
            for row, i in enumerate(new):
                states[i].sentence, states[i].words = sentences[i], Tokens(words.values[row], words.mask[row])
        known = [state.words for state in states if state.words is not None]
        return Tokens(torch.stack([w.values for w in known]), torch.stack([w.mask for w in known]))

    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """LeRobot: (B, A) for single frames; the history is kept inside, see `reset`."""
        states = self._own_states(batch)
        actions = self.act(states, batch)
        self._states = states
        return actions

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """LeRobot: the whole chunk (B, H, A) for single frames, which join the history inside.

        With `action_space=se3_relative` it holds absolute poses, also where `select_action` gives LIBERO's changes.
        """
        states = self._own_states(batch)
        self._observe(states, batch)
        self._states = states
        return self._finish(self._chunks(states, self._pose(batch), range(len(states))))

    @torch.no_grad()
    def attention(self, batch: dict[str, Any]) -> WordAttention:
        """Word-to-patch maps of frames (B, ...) or windows (B, T, ...); early fusion only."""
        patches, words, _ = self._inputs(batch, time=self._has_time(batch))
        grid = self.config.encoder_grid or (0, 0)
        weights = self.model.attention(patches, words).unflatten(-1, grid)
        return WordAttention(weights, words.mask, self.config.camera_keys)

    @torch.no_grad()
    def pooling_attention(self, batch: dict[str, Any]) -> PoolingAttention:
        """Where the readouts look that make the policy's tokens, for frames (B, ...) or windows (B, T, ...)."""
        self.eval()
        weights = self.model.pooling_attention(*self._inputs(batch, time=self._has_time(batch)))
        return PoolingAttention(weights, self.config.encoder_grid or (0, 0), self.config.camera_keys)

    def _has_time(self, batch: dict[str, Any]) -> bool:
        """Whether pictures or features of a batch have a time axis."""
        picture = self.config.camera_keys[0]
        key, frame_axes = (picture, 4) if picture in batch else (feature_key(picture), 3)
        return key in batch and batch[key].ndim > frame_axes


def _frames(batch: dict[str, Any]) -> int:
    """B of single frames.

    Raises:
        FoveaError: a batch without one instruction a frame.
    """
    if TOKENS in batch:
        return len(batch[TOKENS])
    sentences = batch.get("task")
    if isinstance(sentences, str) or not isinstance(sentences, Sequence) or not sentences:
        raise FoveaError(f"expected one instruction in words per sample under `task`, got {sentences!r}")
    return len(sentences)
