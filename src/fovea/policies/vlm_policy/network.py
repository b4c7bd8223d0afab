"""The trainable policy on top of a VLM: one block per layer of the VLM, from chunk latents to actions.

Shape letters: L layers, B batch, M vision tokens (camera after camera), Q action queries, D width of the policy,
R width of the raw vision features, X width of tokens computed elsewhere, H horizon, A action, P proprioception.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fovea.errors import FoveaError
from fovea.fusion import CascadedAttention, MixedAttention, Selection
from fovea.fusion.cascaded import Order
from fovea.heads import ChunkHead, ChunkStem
from fovea.nn.attention import check_heads
from fovea.nn.onednn import use_onednn
from fovea.nn.positions import sincos_2d
from fovea.nn.squares import average_squares, zero_padding
from fovea.policies.vlm_policy.configuration import VLMPolicyConfig
from fovea.tokens import Tokens
from fovea.vlm.states import VLMStates


@dataclass(frozen=True)
class VLMFacts:
    """What a policy has to know of its VLM: L, width of its states, R and a camera's (rows, columns) of patches."""

    layers: int
    width: int
    feature_width: int
    grid: tuple[int, int] | None = None


class FeaturePlaces(nn.Module):
    """A learned place and camera on tokens (B, M, D) of the vision encoder, for one that does not tell them by itself.

    Places begin as a 2-D sine-cosine embedding, half as loud as tokens of unit variance.

    Args:
        grid: (rows, columns) of a camera's tokens.
        cameras: M is so many times the grid.
        width: D.
    """

    def __init__(self, grid: tuple[int, int], cameras: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(sincos_2d(grid, width) * width**0.5 * 0.5)
        self.camera = nn.Parameter(torch.randn(cameras, width) * 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + (self.camera[:, None] + self.place).flatten(0, 1)


class PolicyBlock(nn.Module):
    """Attention, then ReLU(Linear(LN(attended + x))), VLA-Adapter's feed-forward (eq. 8).

    With `film`, the layer that VLA-Adapter-Pro's weights hold and nothing reads.
    """

    def __init__(self, width: int, attention: MixedAttention | CascadedAttention, film: bool) -> None:
        super().__init__()
        self.attention = attention
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())
        self.film = nn.Linear(width, 2 * width) if film else None

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        maps: list[Tensor] | None,
    ) -> Tensor:
        return self.ffn(self.attention(x, context, keys, values, mask, maps) + x)


class ChunkNetwork(nn.Module):
    """States of a VLM and proprioception in, a chunk of actions out; every part is chosen by the configuration.

    Vision that does not depend on the layer (raw features, tokens from elsewhere) is projected once a frame; keys and
    values of the layers are not computed at all where reassociation is cheaper (see `fovea.nn.attention.key_scores`).

    Args:
        config: pattern, selection, gate, representation and sizes.
        vlm: what the states will be like.
    """

    def __init__(self, config: VLMPolicyConfig, vlm: VLMFacts) -> None:
        super().__init__()
        config.settle()
        self.config, self.vlm = config, vlm
        width = config.dim_model or vlm.width
        check_heads(width, config.n_heads)
        self.cameras = len(config.camera_keys)
        self.stem = ChunkStem(
            config.chunk_size,
            config.action_size * vlm.width,
            width,
            learned=config.chunk_queries == "learned",
        )
        self.proprio = nn.Sequential(
            nn.Linear(config.proprio_size, vlm.width), nn.GELU(), nn.Linear(vlm.width, vlm.width)
        )
        sources = {"vlm": "vlm vlm", "ds": "ds ds", "vlm+ds": "vlm ds", "vggt": "extra extra"}
        self.key_source, self.value_source = sources[config.representation].split()
        used = (self.key_source, self.value_source)
        self.downsample = nn.Linear(vlm.feature_width, width) if "ds" in used else None
        placed = config.feature_positions == "learned" and self.downsample is not None
        self.places = FeaturePlaces(self._grid(), self.cameras, width) if placed else None
        self.adapter = nn.Linear(config.extra_width, width) if "extra" in used else None
        self.blocks = nn.ModuleList(
            PolicyBlock(width, self._attention(width), config.film) for _ in range(vlm.layers)
        )
        self.head = ChunkHead(width, config.action_size)
        use_onednn(self)

    def _attention(self, width: int) -> MixedAttention | CascadedAttention:
        config = self.config
        widths: dict[str, Any] = {
            "query_width": self.vlm.width,
            "key_width": self.vlm.width if self.key_source == "vlm" else width,
            "value_width": self.vlm.width if self.value_source == "vlm" else width,
            "selection": Selection(config.top_k, config.top_k_scope, self.cameras),
            "gate": config.gate,
            "rotary": config.rotary,
        }
        if config.attention == "mixed":
            return MixedAttention(width, config.n_heads, separate=config.separate_projections, **widths)
        order: Order = "parallel" if config.attention == "parallel" else "sequential"
        return CascadedAttention(width, config.n_heads, order=order, **widths)

    def forward(
        self,
        states: VLMStates,
        proprio: Tensor,
        *,
        extra: Tensor | Tokens | None = None,
        latent: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Predict a chunk.

        Args:
            states: of the VLM, L layers.
            proprio: (B, P), scaled.
            extra: (B, M', X) tokens computed elsewhere, for representation vggt; Tokens where some are padding.
            latent: (B, H, A x VLM width), where the chunk begins; None takes the stem's own.
            maps: gets L attention maps (B, heads, H, M) of actions to vision.

        Returns:
            (B, H, A), scaled.

        Raises:
            FoveaError: other states or proprioception than configured, no `extra` where it is needed, or a sample
                that has no vision token at all.
        """
        if isinstance(extra, Tensor):
            extra = Tokens(extra, extra.new_ones(extra.shape[:-1], dtype=torch.bool))
        self._check(states, proprio, extra)
        fixed, mask = self._fixed_tokens(states, extra)
        if mask is not None and not mask.any(1).all():
            blind = (~mask.any(1)).nonzero().flatten().tolist()
            raise FoveaError(f"expected at least one real vision token a sample, got none in samples {blind}")
        token = self.proprio(proprio)[:, None]
        x = self.stem(len(proprio), latent)
        # Not states.vision[layer]: the gradient of each would be zeros as large as the states of all layers.
        layers = zip(self.blocks, states.vision.unbind(), states.queries.unbind(), strict=True)
        for block, vision, queries in layers:
            if "vlm" in (self.key_source, self.value_source):
                vision, _ = self._pooled(vision, states.mask)
            keys, values = (
                vision if source == "vlm" or fixed is None else fixed
                for source in (self.key_source, self.value_source)
            )
            context = torch.cat([queries, token], dim=1)
            x = block(x, context, keys, values, mask, maps)
        return self.head(x)

    def _fixed_tokens(self, states: VLMStates, extra: Tokens | None) -> tuple[Tensor | None, Tensor | None]:
        """Vision tokens that are the same for every layer (B, M, D), if any, and the mask of all vision tokens."""
        if self.adapter is not None:
            assert extra is not None
            mask = None if extra.mask.all() else extra.mask
            return self.adapter(zero_padding(extra.values, mask)), mask
        if self.downsample is None:
            return None, self._pooled(states.vision[0], states.mask)[1]
        features, mask = self._pooled(states.features, states.mask)
        if self.places is None:
            return self.downsample(features), mask
        return self.places(self.downsample(F.layer_norm(features, features.shape[-1:]))), mask

    def _grid(self) -> tuple[int, int]:
        """(rows, columns) of a camera's vision tokens, after pooling.

        Raises:
            FoveaError: the VLM does not know.
        """
        if self.vlm.grid is None:
            raise FoveaError("expected a VLM that knows the grid of its patches; set feature_positions=none")
        side = 2 if self.config.pool_vision else 1
        return self.vlm.grid[0] // side, self.vlm.grid[1] // side

    def _pooled(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """2x2 mean pooling inside every camera where configured: (B, M, W) -> a quarter of them, and their mask."""
        if not self.config.pool_vision:
            return zero_padding(tokens, mask), mask
        count = tokens.shape[1] // self.cameras
        rows, columns = self.vlm.grid or (math.isqrt(count), math.isqrt(count))
        if tokens.shape[1] != self.cameras * rows * columns or rows % 2 or columns % 2:
            raise FoveaError(
                f"expected {self.cameras} cameras with an even grid of patches to pool 2x2, got {tokens.shape[1]} "
                f"tokens and a grid of {rows} x {columns}; set pool_vision=false"
            )
        return average_squares(tokens, mask, grid=(rows, columns), side=2)

    def _check(self, states: VLMStates, proprio: Tensor, extra: Tokens | None) -> None:
        vlm, got = self.vlm, tuple(states.vision.shape)
        if states.vision.ndim != 4 or got[0] != vlm.layers or got[-1] != vlm.width:
            raise FoveaError(f"expected states ({vlm.layers}, B, M, {vlm.width}) of the VLM, got {got}")
        _, count, tokens, _ = got
        asked = tuple(states.queries.shape)
        if len(asked) != 4 or (asked[0], asked[1], asked[3]) != (vlm.layers, count, vlm.width):
            raise FoveaError(
                f"expected states ({vlm.layers}, {count}, Q, {vlm.width}) of the action queries after every layer "
                f"(the embeddings are not among them), got {asked}"
            )
        features = (count, tokens, vlm.feature_width)
        if self.downsample is not None and tuple(states.features.shape) != features:
            raise FoveaError(f"expected raw features {features}, got {tuple(states.features.shape)}")
        if states.mask is not None and tuple(states.mask.shape) != (count, tokens):
            raise FoveaError(f"expected a mask {(count, tokens)}, got {tuple(states.mask.shape)}")
        if tuple(proprio.shape) != (count, self.config.proprio_size):
            raise FoveaError(
                f"expected proprioception ({count}, {self.config.proprio_size}), got {tuple(proprio.shape)}"
            )
        if self.adapter is None:
            return
        shape = () if extra is None else tuple(extra.values.shape)
        if len(shape) != 3 or (shape[0], shape[2]) != (count, self.config.extra_width):
            raise FoveaError(
                f"expected tokens ({count}, M, {self.config.extra_width}) under {self.config.extra_key} for "
                f"representation={self.config.representation}, got {shape or None}"
            )
