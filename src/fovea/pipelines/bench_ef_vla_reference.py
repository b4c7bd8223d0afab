"""EF-VLA as it was published (later OTTER), in plain PyTorch with CLIP inside the loop: `fovea bench` compares with it.

Written from the paper (section 3, appendix, Table 5), with what makes the comparison fair: the frozen CLIP runs in
inference mode and all cameras and frames of a batch go through it together. As in the release, pictures are encoded
in every training step, and the instruction is encoded again at every control step.

Shape letters: B batch, T time, C cameras, N patches, M text positions, D joint width, V tower width, W policy width,
H horizon, A action.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ReferenceSizes:
    """Table 5, and the appendix's poolings.

    Attributes:
        words: text positions that are kept, start and end included.
        text, vision, proprio: widths of the parts of a policy token; vision is shared by the cameras.
        queries, pooling_heads: of each pooling.
    """

    cameras: int = 2
    context: int = 12
    horizon: int = 12
    action: int = 7
    state: int = 10
    words: int = 15
    text: int = 128
    vision: int = 512
    proprio: int = 64
    queries: int = 4
    pooling_heads: int = 8
    width: int = 512
    layers: int = 4
    heads: int = 8


class _PoolingBlock(nn.Module):
    def __init__(self, width: int, context: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, kdim=context, vdim=context, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class _Pooling(nn.Module):
    """Learned queries read tokens (B, M, D) in two blocks of cross-attention: (B, out)."""

    def __init__(self, context: int, out: int, sizes: ReferenceSizes) -> None:
        super().__init__()
        width = out // sizes.queries
        self.queries = nn.Parameter(torch.randn(sizes.queries, width))
        self.blocks = nn.ModuleList(_PoolingBlock(width, context, sizes.pooling_heads, out) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, tokens)
        return self.norm(x).flatten(1)


class ReferenceEFVLA(nn.Module):
    """The whole policy, CLIP included.

    Args:
        clip: open_clip's CLIP with a plain vision transformer; frozen here.
        sizes: of everything that trains.
    """

    positions: Tensor
    causal: Tensor

    def __init__(self, clip: open_clip.CLIP, sizes: ReferenceSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.clip: Any = clip.eval().requires_grad_(False)
        self._attended: list[Tensor] = []
        self.clip.visual.transformer.resblocks[-1].attn.register_forward_hook(self._keep)
        joint = self.clip.visual.output_dim
        rows, columns = self.clip.visual.grid_size
        self.temperature = nn.Parameter(torch.full((sizes.cameras,), 0.07))
        self.register_buffer("positions", _sincos(rows * columns, joint))
        self.text_pooling = _Pooling(joint, sizes.text, sizes)
        self.vision_poolings = nn.ModuleList(
            _Pooling(joint, sizes.vision // sizes.cameras, sizes) for _ in range(sizes.cameras)
        )
        self.proprio = nn.Sequential(
            *(nn.Linear(sizes.state, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()),
            nn.Linear(256, sizes.proprio),
        )
        self.input = nn.Linear(sizes.text + sizes.vision + sizes.proprio, sizes.width)
        self.time = nn.Parameter(torch.randn(sizes.context, sizes.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            sizes.width, sizes.heads, 4 * sizes.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, sizes.layers, enable_nested_tensor=False)
        self.head = nn.Sequential(
            nn.Linear(sizes.width, sizes.width),
            nn.ReLU(),
            nn.Linear(sizes.width, sizes.horizon * sizes.action),
        )
        mask = torch.triu(torch.ones(sizes.context, sizes.context, dtype=torch.bool), 1)
        self.register_buffer("causal", mask)

    def trained(self) -> list[nn.Parameter]:
        """Parameters that train: all but CLIP's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._attended = [output[0]]

    def patches(self, pictures: Tensor) -> Tensor:
        """uint8 (K, 3, S, S) -> X_attn patches (K, N, D): CLIP's whole forward, its last attention read by a hook."""
        with torch.inference_mode():
            mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
            visual = self.clip.visual
            visual((pictures.float() / 255 - mean) / std)
            values = F.normalize(visual.ln_post(self._attended[0][:, 1:]) @ visual.proj, dim=-1)
        return values.clone()  # out of inference mode: what follows may need gradients

    def words(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> their first text positions (B, M, D)."""
        with torch.inference_mode():
            ids, clip = open_clip.tokenize(list(sentences)), self.clip
            x = clip.token_embedding(ids) + clip.positional_embedding
            x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask)) @ clip.text_projection
            values = F.normalize(x[:, : self.sizes.words], dim=-1)
        return values.clone()

    def tokens(self, patches: Tensor, words: Tensor, state: Tensor) -> Tensor:
        """Patches (B, T, C, N, D), words (B, M, D), state (B, T, S) -> policy tokens (B, T, W), section 3.2."""
        batch, time = state.shape[:2]
        parts = [self.text_pooling(words)[:, None].expand(-1, time, -1)]
        spread = words[:, None].expand(-1, time, -1, -1).flatten(0, 1)
        for camera, pooling in enumerate(self.vision_poolings):
            seen = patches[:, :, camera].flatten(0, 1)
            temperature = self.temperature[camera].clamp(1e-2, 100)
            attention = torch.softmax(spread @ seen.transpose(1, 2) / temperature, dim=-1)
            parts.append(pooling(attention @ (seen + self.positions)).unflatten(0, (batch, time)))
        parts.append(self.proprio(state))
        return self.input(torch.cat(parts, dim=-1))

    def predict(self, tokens: Tensor) -> Tensor:
        """Policy tokens (B, T, W) -> chunks (B, T, H, A)."""
        time = tokens.shape[1]
        x = self.transformer(tokens + self.time[:time], mask=self.causal[:time, :time], is_causal=True)
        return self.head(x).unflatten(-1, (self.sizes.horizon, self.sizes.action))

    def loss(self, pictures: Tensor, sentences: Sequence[str], state: Tensor, target: Tensor) -> Tensor:
        """Mean L1 of windows: pictures uint8 (B, T, C, 3, S, S), state (B, T, S), target (B, T, H, A)."""
        patches = self.patches(pictures.flatten(0, 2)).unflatten(0, pictures.shape[:3])
        return (self.predict(self.tokens(patches, self.words(sentences), state)) - target).abs().mean()


class ReferenceController:
    """Control steps of one episode: one frame in, one chunk out; the last policy tokens are kept.

    Args:
        keep_words: encode the instruction once instead of at every step, which the release does not.
    """

    def __init__(self, model: ReferenceEFVLA, keep_words: bool = False) -> None:
        self.model, self.keep_words = model.eval(), keep_words
        self._tokens: list[Tensor] = []
        self._words: Tensor | None = None

    def remember(self, tokens: Sequence[Tensor]) -> None:
        """Start with a history: policy tokens (1, 1, W), oldest first."""
        self._tokens = list(tokens)[-self.model.sizes.context :]

    @torch.inference_mode()
    def step(self, pictures: Tensor, sentence: str, state: Tensor) -> Tensor:
        """Pictures uint8 (C, 3, S, S), state (S,) -> chunk (H, A)."""
        model = self.model
        if self._words is None or not self.keep_words:
            self._words = model.words([sentence])
        token = model.tokens(model.patches(pictures)[None, None], self._words, state[None, None])
        self._tokens = [*self._tokens, token][-model.sizes.context :]
        return model.predict(torch.cat(self._tokens, dim=1))[0, -1]


def _sincos(length: int, width: int) -> Tensor:
    """Fixed one-dimensional positions (N, D), sines first."""
    rates = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
