"""EF-VLA in plain torch: patches, words and proprioception in, chunks of actions out.

Shape letters: B batch, T time, C cameras, N patches, M words, D joint width, P proprioception, W policy width,
H horizon, A action.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.fusion import FUSIONS, EarlyFusion
from fovea.heads import RegressionHead
from fovea.nn import CausalTransformer, KeyValueCache, Readouts
from fovea.nn.onednn import use_onednn
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.tokens import Tokens


@dataclass
class StepState:
    """What stepping remembers: the last T policy tokens (B, W) and, until they are T, keys and values."""

    window: list[Tensor] = field(default_factory=list)
    cache: KeyValueCache | None = field(default_factory=KeyValueCache)


@contextmanager
def _naming(fields: str) -> Iterator[None]:
    """What a part of the model refuses inside is said with the configuration's fields that decide it."""
    try:
        yield
    except FoveaError as error:
        raise FoveaError(f"{error} (in the configuration: {fields})") from error


class EFVLAModel(nn.Module):
    """The trainable part of EF-VLA (section 3): fusion, poolings, causal transformer, head.

    Args:
        config: with `encoder_width` and `encoder_grid` set.
    """

    def __init__(self, config: EFVLAConfig) -> None:
        super().__init__()
        width, grid, cameras = config.encoder_width, config.encoder_grid, len(config.camera_keys)
        if width is None or grid is None:
            raise FoveaError(
                "expected encoder_width and encoder_grid in the configuration, got None; set them"
            )
        whole = cameras * config.readouts * config.pooling_heads
        if config.vision_width % whole:
            raise FoveaError(
                f"expected a vision_width that {cameras} cameras x {config.readouts} readouts x {config.pooling_heads} "
                f"pooling_heads divide, got {config.vision_width}; set --policy.vision_width="
                f"{max(1, round(config.vision_width / whole)) * whole}"
            )
        self.config = config
        self.fusion = FUSIONS[config.fusion](
            width,
            grid,
            cameras,
            temperature=config.temperature or 0.07,
            max_scale=config.max_scale,
            positions=config.value_positions,
            join=config.value_join,
            position_width=config.value_position_width,
            content_dropout=config.value_content_dropout,
        )
        per_camera = config.vision_width // cameras
        with _naming("vision_width (shared by all cameras), readouts or pooling_heads"):
            self.vision_pooling = nn.ModuleList(
                self._pooling(self.fusion.out_width, per_camera) for _ in range(cameras)
            )
        with _naming("text_width, readouts or pooling_heads"):
            self.text_pooling = self._pooling(width, config.text_width) if config.use_text_pooling else None
        self.proprio = None
        if config.use_proprio:
            hidden = config.proprio_hidden
            self.proprio = nn.Sequential(
                nn.Linear(config.proprio_size, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, config.proprio_width),
            )
        token = config.vision_width
        token += config.text_width * config.use_text_pooling + config.proprio_width * config.use_proprio
        self.input = nn.Linear(token, config.dim_model)
        self.transformer = CausalTransformer(
            config.dim_model,
            config.n_layers,
            config.n_heads,
            config.n_obs_steps,
            hidden=round(config.dim_model * config.mlp_ratio),
            positions=config.time_positions,
            final_norm=config.final_norm,
            dropout=config.dropout,
        )
        self.head = RegressionHead(
            config.dim_model,
            config.chunk_size,
            config.action_size,
            gripper=config.gripper_loss,
            gripper_weight=config.gripper_loss_weight,
        )
        use_onednn(self)

    def _pooling(self, context_width: int, out_width: int) -> Readouts:
        config = self.config
        return Readouts(
            context_width,
            out_width,
            readouts=config.readouts,
            blocks=config.pooling_blocks,
            heads=config.pooling_heads,
            style=config.pooling_style,
        )

    def forward(self, patches: Tensor, words: Tokens, proprio: Tensor | None) -> Tensor:
        """Predict a chunk at every frame.

        Args:
            patches: (B, T, C, N, D), cameras in sorted key order.
            words: values (B, M, D).
            proprio: (B, T, P), or None without the proprioceptive branch.

        Returns:
            raw predictions (B, T, H, A); `head.decode` makes actions of them.
        """
        return self.predict(self.tokens(patches, words, proprio))

    def tokens(
        self,
        patches: Tensor,
        words: Tokens,
        proprio: Tensor | None,
        maps: list[list[Tensor]] | None = None,
    ) -> Tensor:
        """One policy token a frame, f_t = concat[text | cameras | proprioception] -> (B, T, W).

        `maps` gets, for every camera, the attention (B * T, heads, R, fused tokens) of each block of its pooling.
        """
        config, precision = self.config, self.input.weight.dtype
        words = Tokens(words.values.to(precision), words.mask)
        fused = self.fusion(patches, words)
        time = patches.shape[1]
        parts = []
        if self.text_pooling is not None:
            text = self.text_pooling(words)
            if self.training and config.text_dropout > 0:
                text = text * (torch.rand(len(text), 1, device=text.device) >= config.text_dropout)
            parts.append(text[:, None].expand(-1, time, -1))
        for camera, pooling in enumerate(self.vision_pooling):
            seen: list[Tensor] | None = None if maps is None else []
            parts.append(pooling(Tokens(fused.values[:, :, camera], fused.mask[:, :, camera]), seen))
            if maps is not None and seen is not None:
                maps.append(seen)
        if self.proprio is not None:
            if proprio is None:
                raise FoveaError(
                    "expected proprioception (B, T, P), got None; set use_proprio=false without it"
                )
            if self.training and config.proprio_noise:
                proprio = proprio + config.proprio_noise * torch.randn_like(proprio)
            parts.append(self.proprio(proprio.to(precision)))
        return self.input(torch.cat(parts, dim=-1))

    def predict(self, tokens: Tensor) -> Tensor:
        """Policy tokens (B, T, W) -> raw predictions (B, T, H, A), all frames in one causal sequence.

        Non-obvious: a policy acts on its last `n_obs_steps` frames; over a longer sequence (rotary positions only)
        this lets a frame see everything before it, as OTTER's forward does. `slide` predicts as the policy acts.
        """
        return self.head(self.transformer(tokens))

    def slide(self, tokens: Tensor) -> Tensor:
        """Policy tokens (B, T, W) of any length -> (B, T, H, A), each from its last `n_obs_steps` frames: as `step`."""
        context, time = self.config.n_obs_steps, tokens.shape[1]
        first = self.predict(tokens[:, :context])
        if time <= context:
            return first
        windows = tokens[:, 1:].unfold(1, context, 1).transpose(-1, -2)  # (B, T - context, context, W)
        last = self.last(windows.flatten(0, 1), torch.full((windows.shape[:2].numel(),), context))
        return torch.cat([first, last.unflatten(0, windows.shape[:2])], dim=1)

    def last(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Windows (K, T, W), padded behind, of lengths (K,) -> raw predictions (K, H, A) at the last real frame."""
        return self.head(self.transformer(windows)[torch.arange(len(windows)), lengths - 1])

    def step(self, token: Tensor, state: StepState) -> Tensor:
        """Feed one frame's token (B, W), get its raw prediction (B, H, A).

        Equal to `slide` over the frames so far, with keys and values cached. Past the context length the window
        slides: every position in it changes, and with it, in every layer but the first, what a frame saw of frames
        that have left. The window is then computed anew, as OTTER does.
        """
        state.window = [*state.window, token][-self.config.n_obs_steps :]
        if state.cache is not None and state.cache.length < self.config.n_obs_steps:
            return self.head(self.transformer.step(token, state.cache))
        state.cache = None
        window = torch.stack(state.window, dim=1)
        return self.last(window, torch.full((len(window),), window.shape[1]))

    def pooling_attention(self, patches: Tensor, words: Tokens, proprio: Tensor | None) -> Tensor:
        """Where the readouts of every pooling block look in the pictures: (blocks, B, T, C, heads, R, N).

        Late fusion: the attention itself. Early fusion: readouts attend to words, which collected patches, so the two
        weights are chained; each row sums to one either way.
        """
        maps: list[list[Tensor]] = []
        self.tokens(patches, words, proprio, maps)
        lead = patches.shape[:2]
        weights = torch.stack([torch.stack(camera).unflatten(1, lead) for camera in maps], dim=3)
        if isinstance(self.fusion, EarlyFusion):
            weights = weights @ self.attention(patches, words)[:, :, :, None]
        return weights

    def attention(self, patches: Tensor, words: Tokens) -> Tensor:
        """Word-to-patch weights (B, T, C, M, N) of early fusion.

        Raises:
            FoveaError: late fusion has none.
        """
        if not isinstance(self.fusion, EarlyFusion):
            raise FoveaError(f"expected fusion=early, got {self.config.fusion}: it has no word-to-patch maps")
        return self.fusion.attention(patches.to(words.values.dtype), words)
