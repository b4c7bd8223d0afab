"""A policy over a VLM behind LeRobot's interface.

Shape letters: L layers, B batch, C cameras, N patches of a camera, M = C * N, Q action queries, D width of the VLM,
R width of the raw vision features, H horizon, A action, P proprioception.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from fovea.data.files import read_json
from fovea.encoders import VisionEncoder
from fovea.errors import FoveaError
from fovea.policies.batches import forget, padding
from fovea.policies.checked import CONFIG, CheckedWeights, policy_folder
from fovea.policies.vlm_policy.configuration import ACTION, VLMPolicyConfig
from fovea.policies.vlm_policy.inputs import VLMInputs
from fovea.policies.vlm_policy.network import ChunkNetwork, VLMFacts
from fovea.vlm import VLM, create_vlm
from fovea.vlm.config import check_pool
from fovea.vlm.states import VLMStates


@dataclass
class ChunkMemory:
    """One episode's memory: the actions (A,) that it still has to play. A new episode needs a new one."""

    pending: deque[Tensor] = field(default_factory=deque)


@dataclass(frozen=True)
class ActionAttention:
    """Where the actions of a chunk look: weights (L, B, heads, H, M) on vision tokens, a camera's grid, cameras."""

    weights: Tensor
    grid: tuple[int, int]
    cameras: list[str]


class VLMPolicy(CheckedWeights, PreTrainedPolicy):
    """What VLA-Adapter and FocusVLA have in common; their classes only say which configuration is theirs.

    Batches carry cached features (`observation.features.<camera>`), or pictures, or the states of a VLM that runs
    elsewhere (`states_from=batch`).

    Args:
        config: the configuration; facts of the vision encoder are filled in.
        vlm: use this VLM instead of building one.
        encoder: use this vision encoder inside the VLM (several policies may share it).
        load_weights: False builds networks only, for a checkpoint that is loaded afterwards.
        dataset_stats: LeRobot's, of the data set to train on: its gripper must be one that opens or closes.
        dataset_meta: LeRobot's; not used, scaling is the processors' work.

    Raises:
        FoveaError: features or a gripper that do not suit the policy, or from the VLM.
    """

    config_class = VLMPolicyConfig
    name = "vlm_policy"
    config: VLMPolicyConfig

    def __init__(
        self,
        config: VLMPolicyConfig,
        *,
        vlm: VLM | None = None,
        encoder: VisionEncoder | None = None,
        load_weights: bool = True,
        dataset_stats: dict[str, Any] | None = None,
        dataset_meta: Any = None,
    ) -> None:
        super().__init__(config)
        if config.input_features:
            config.validate_features()
        config.check_data(dataset_stats)
        config.vlm.cameras = len(config.camera_keys)
        if config.states_from == "batch":
            assert config.vlm.feature_width is not None  # the configuration saw to it
            self.vlm = None
            grid = config.vlm.encoder_grid and check_pool(config.vlm.encoder_grid, config.vlm.patch_pool)
            facts = VLMFacts(config.vlm.layers, config.vlm.width, config.vlm.feature_width, grid)
        else:
            self.vlm = vlm or create_vlm(config.vlm, encoder=encoder, load_weights=load_weights)
            facts = VLMFacts(self.vlm.layers, self.vlm.width, self.vlm.feature_width, self.vlm.grid)
        self.inputs = VLMInputs(config)
        self.model = ChunkNetwork(config, facts)
        self.reset()

    def states(self, batch: dict[str, Any]) -> VLMStates:
        """States of the VLM for the frames of a batch."""
        device = self.model.head.linear.weight.device
        if self.vlm is None:
            return self.inputs.given_states(batch, device)
        crop = 1.0 if self.training else self.config.center_crop
        features = self.inputs.features(batch, self.vlm.encode_images, device, crop)
        return self.vlm(features, self.inputs.sentences(batch), self.inputs.mask(batch, device))

    def predict(self, batch: dict[str, Any], maps: list[Tensor] | None = None) -> Tensor:
        """Scaled actions (B, H, A) for frames; `maps` gets L attention maps (B, heads, H, M)."""
        weight = self.model.head.linear.weight
        proprio = self.inputs.proprio(batch, weight.device).to(weight.dtype)
        extra = self.inputs.extra(batch, weight.device)
        extra = None if extra is None else extra.to(weight.dtype)
        return self.model(self.states(batch).to(weight.dtype), proprio, extra=extra, maps=maps).float()

    # -- training ------------------------------------------------------------------------------------------

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, Any]]:
        """L1 loss of chunks (B, H, A), masked where `action_is_pad`.

        Returns:
            the loss, a scalar over all real actions or (B,) with reduction `none`, and its parts as numbers.
        """
        if reduction not in ("mean", "none"):
            raise FoveaError(f"expected reduction mean or none, got {reduction!r}")
        actions = self.predict(batch)
        if ACTION not in batch:
            raise FoveaError(f"expected {ACTION} in a batch to learn from, got {sorted(batch)}")
        target = batch[ACTION].to(actions.device, torch.float32)
        target = target.clamp(-1, 1) if self.config.clips("ACTION") else target
        if self.config.gripper == "one_is_open":
            target = torch.cat([target[..., :-1], (1 - target[..., -1:]) / 2], dim=-1)
        if target.shape != actions.shape:
            raise FoveaError(
                f"expected actions of shape {tuple(actions.shape)}, one frame and its chunk a sample, got "
                f"{tuple(target.shape)}; does the data set's window fit chunk_size?"
            )
        mask = torch.ones(target.shape[:2], dtype=torch.bool, device=actions.device)
        if (beyond := padding(batch, "action_is_pad", target.shape[:2], actions.device)) is not None:
            mask = ~beyond
        loss, parts = self.model.head.loss(actions, target, mask)
        weight = mask.sum(1).to(loss.dtype)
        real = weight.sum()
        weight = weight / real.clamp(min=1)  # every real action counts the same
        info = {name: (value.detach() * weight).sum().item() for name, value in parts.items()}
        info["weight"] = real.item()  # for the mean over several processes
        return (loss if reduction == "none" else (loss * weight).sum()), info

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Two groups: matrices with weight decay; norms, biases, gates and learned queries without."""
        decayed: list[Tensor] = []
        free: list[Tensor] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                exempt = parameter.ndim < 2 or name.endswith("queries")
                (free if exempt else decayed).append(parameter)
        return [{"params": decayed}, {"params": free, "weight_decay": 0.0}]

    # -- acting --------------------------------------------------------------------------------------------

    def new_episode(self) -> ChunkMemory:
        """Memory for an episode that begins."""
        return ChunkMemory()

    @torch.no_grad()
    def act(self, states: Sequence[ChunkMemory], batch: dict[str, Any]) -> Tensor:
        """One action for each of B episodes, wherever they are in their chunks.

        Frames of episodes that still have actions to play are not even encoded.

        Args:
            states: B memories, changed in place.
            batch: single frames, preprocessed.

        Returns:
            (B, A), still scaled like the dataset's actions; the post-processor undoes that.
        """
        count = self.inputs.count(batch)
        if count != len(states):
            raise FoveaError(f"expected a batch of {len(states)} frames, one an episode, got {count}")
        due = [i for i, state in enumerate(states) if not state.pending]
        if due:
            rows = self.inputs.rows(batch, due) if len(due) < count else batch
            for i, chunk in zip(due, self.predict_action_chunk(rows), strict=True):
                states[i].pending.extend(chunk[: self.config.n_action_steps])
        return torch.stack([state.pending.popleft() for state in states])

    @torch.no_grad()
    def act_blind(self, state: ChunkMemory) -> Tensor:
        """The rest (K, A) of an episode's chunk, which is played whatever the frames show; K may be 0."""
        actions = list(state.pending)
        state.pending.clear()
        return torch.stack(actions) if actions else torch.empty(0, self.config.action_size)

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """LeRobot: the whole chunk (B, H, A) for single frames."""
        self.eval()
        self.inputs.check_acting(batch)
        actions = self.predict(batch)
        if self.config.clips("ACTION") and not self.config.as_released:
            actions = actions.clamp(-1, 1)
        if self.config.gripper == "as_is":
            return actions
        last = actions[..., -1:]
        closes = last > 0 if self.config.gripper == "signed" else last <= 0.5
        return torch.cat([actions[..., :-1], torch.where(closes, 1.0, -1.0)], dim=-1)

    def reset(self, environments: Sequence[int] | Sequence[bool] | None = None) -> None:
        """Forget what `select_action` still had to play: in all environments, or in some (numbers, or "done" for each).

        Raises:
            FoveaError: there is no such environment.
        """
        if environments is None:
            self._memories: list[ChunkMemory] = []
        else:
            forget(self._memories, environments, self.new_episode)

    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """LeRobot: (B, A) for single frames; what is left of the chunks is kept inside, see `reset`."""
        memories = self._memories or [self.new_episode() for _ in range(self.inputs.count(batch))]
        actions = self.act(memories, batch)
        self._memories = memories  # kept once a batch has been acted on
        return actions

    @torch.no_grad()
    def attention(self, batch: dict[str, Any]) -> ActionAttention:
        """Where every layer's actions look, for single frames."""
        self.eval()
        maps: list[Tensor] = []
        self.predict(batch, maps)
        weights = torch.stack(maps)
        cameras = self.config.camera_keys
        flat = (1, weights.shape[-1] // len(cameras))  # of tokens that nobody said the places of
        elsewhere = self.config.representation == "vggt"
        rows, columns = flat if elsewhere else self.model.vlm.grid or flat
        if self.config.pool_vision and rows > 1:  # else they are counted as they are
            rows, columns = rows // 2, columns // 2
        return ActionAttention(weights, (rows, columns), cameras)

    # -- loading -------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: Any = None, **kwargs: Any
    ) -> Self:
        """As LeRobot's, strict; networks are built without the weights that the checkpoint brings."""
        folder = policy_folder(pretrained_name_or_path, **kwargs)
        config = config or PreTrainedConfig.from_pretrained(folder)
        as_saved(config, folder)
        return super().from_pretrained(folder, config=config, **{"load_weights": False, **kwargs})


def as_saved(config: VLMPolicyConfig, folder: Path) -> None:
    """A policy from before raw features could be placed has none that are, whatever is usual now."""
    if (saved := folder / CONFIG).is_file() and "feature_positions" not in read_json(saved, "policy"):
        config.feature_positions = "none"
