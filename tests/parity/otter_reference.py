"""OTTER at any size, with random weights: a checkpoint in its layout and what its architecture makes of inputs.

Written from the description of the release (module by module, torch's own layers), not with our modules, so that the
two can be compared at sizes for which there are no golden tensors. It gives the golden tensors too.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Sizes:
    """A checkpoint's sizes, by the names of OTTER's configuration."""

    cameras: int = 2
    steps: int = 5
    seq_length: int = 4
    action_dim: int = 10
    action_horizon: int = 6
    proprio: int = 10
    readouts: int = 4
    pooling_heads: int = 8
    pooling_layers: int = 2
    text_out: int = 32
    vision_out: int = 64
    proprio_hidden: int = 16
    proprio_out: int = 8
    dim: int = 32
    layers: int = 2
    heads: int = 4
    expansion: int = 1
    first_k: int = 15
    pool_true_text: bool = False
    markers: tuple[int, int] = (62, 63)  # token ids before and behind a sentence
    temperature: float = 0.07
    joint: int = 24
    clip: dict[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """What the checkpoint says of itself."""
        model = {
            "action_dim": self.action_dim,
            "transformer_heads": self.heads,
            "pooling_heads": self.pooling_heads,
            "first_k_tokens": self.first_k,
            "pool_true_text": self.pool_true_text,
        }
        shared = {"seq_length": self.seq_length, "action_horizon": self.action_horizon}
        start, end = self.markers
        clip = {"vision_heads": 2, "transformer_heads": 2, "activation": "quick_gelu"}
        clip |= {"start_token": start, "end_token": end}
        return {"model": json.dumps(model), "shared": json.dumps(shared), "clip": json.dumps(clip)}


class Pooling(nn.Module):
    def __init__(self, context: int, out: int, sizes: Sizes) -> None:
        super().__init__()
        width = out // sizes.readouts
        self.query = nn.Parameter(torch.randn(1, sizes.readouts, width))
        self.layer_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(nn.Module() for _ in range(sizes.pooling_layers))
        for block in self.blocks:
            block.attention = nn.MultiheadAttention(
                width, sizes.pooling_heads, batch_first=True, kdim=context, vdim=context
            )
            block.mlp = nn.Module()
            block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, out), nn.Linear(out, width)
            block.q_layer_norm, block.layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, context: Tensor, ignore: Tensor | None) -> Tensor:
        x = self.query.expand(len(context), -1, -1)
        for block in self.blocks:
            x = block.q_layer_norm(x)
            x = x + block.attention(x, context, context, key_padding_mask=ignore)[0]
            x = block.layer_norm(x)
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(x)))
        return self.layer_norm(x).flatten(1)


class Rope(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        frequencies = 1 / 10000 ** (torch.arange(0, width, 2) / width)
        angles = torch.arange(32)[:, None] * frequencies
        self.register_buffer("inv_freq", frequencies)
        self.register_buffer("emb", torch.cat([angles.sin(), angles.cos()], 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.emb[: x.shape[2]].chunk(
            2, 1
        )  # named cosine and sine there, but the other way round
        a, b = x.chunk(2, -1)
        return torch.cat([a * first - b * second, b * first + a * second], -1)


class Otter(nn.Module):
    """The release's modules under its names."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        vision = {"image_size": 24, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
        text = {"context_length": 20, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
        options = {**vision, **sizes.clip}
        self.clip_model = open_clip.CLIP(sizes.joint, options, text, quick_gelu=True)
        self.patches = (options["image_size"] // options["patch_size"]) ** 2
        self.text_pooling = Pooling(sizes.joint, sizes.text_out, sizes)
        self.visual_extraction = nn.ModuleList(nn.Module() for _ in range(sizes.cameras))
        for number, extraction in enumerate(self.visual_extraction):
            extraction.temperature = nn.Parameter(torch.tensor(sizes.temperature * (1 + number / 8)))
            frequencies = 1 / 10000 ** (torch.arange(0, sizes.joint, 2) / sizes.joint)
            angles = torch.arange(self.patches)[:, None] * frequencies
            extraction.register_buffer("pos_emb", torch.cat([angles.sin(), angles.cos()], 1))
        share = sizes.vision_out // sizes.cameras
        self.vision_poolings = nn.ModuleList(Pooling(sizes.joint, share, sizes) for _ in range(sizes.cameras))
        self.proprio_encoder, self.action_head, self.policy = nn.Module(), nn.Module(), nn.Module()
        hidden = sizes.proprio_hidden
        self.proprio_encoder.mlp = nn.Sequential(
            nn.Linear(sizes.proprio, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, sizes.proprio_out),
        )
        dim = sizes.dim
        self.input_projection = nn.Linear(sizes.text_out + sizes.vision_out + sizes.proprio_out, dim)
        outputs = sizes.action_dim * sizes.action_horizon
        self.action_head.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, outputs))
        self.policy.layers = nn.ModuleList(nn.Module() for _ in range(sizes.layers))
        for layer in self.policy.layers:
            layer.attention = nn.Module()
            for name in ("query", "key", "value", "out"):
                setattr(layer.attention, name, nn.Linear(dim, dim))
            layer.attention.rope = Rope(dim // sizes.heads)
            layer.intermediate, layer.output = (
                nn.Linear(dim, dim * sizes.expansion),
                nn.Linear(dim * sizes.expansion, dim),
            )
            layer.layernorm1, layer.layernorm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def features(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C, N, D) and (B, first_k, D)."""
        clip, caught = self.clip_model, {}
        hooks = [
            clip.visual.transformer.resblocks[-1].attn.register_forward_hook(
                lambda module, args, out: caught.update(patches=out[0])
            ),
            clip.transformer.register_forward_hook(lambda module, args, out: caught.update(text=out)),
        ]
        clip.encode_image(images.flatten(0, 2))
        clip.encode_text(text)
        for hook in hooks:
            hook.remove()
        patches = clip.visual.ln_post(caught["patches"][:, 1:])
        patches = patches if clip.visual.proj is None else patches @ clip.visual.proj
        words = clip.ln_final(caught["text"][:, : self.sizes.first_k]) @ clip.text_projection
        patches = patches / patches.norm(dim=-1, keepdim=True)
        return patches.unflatten(0, images.shape[:3]), words / words.norm(dim=-1, keepdim=True)

    def tokens(self, patches: Tensor, words: Tensor, text: Tensor, proprio: Tensor) -> Tensor:
        """(B, T, W)."""
        batch, time = patches.shape[:2]
        ignore = None
        if self.sizes.pool_true_text:
            ids = text[:, : self.sizes.first_k]
            ignore = torch.isin(ids, torch.tensor([0, *self.sizes.markers])).repeat_interleave(time, 0)
        repeated = words.repeat_interleave(time, 0)
        parts = [self.text_pooling(repeated, ignore)]
        for camera, extraction in enumerate(self.visual_extraction):
            seen = patches[:, :, camera].flatten(0, 1)
            similarity = repeated @ seen.transpose(1, 2) / extraction.temperature.clamp(0, 100)
            aware = similarity.softmax(-1) @ (seen + extraction.pos_emb)
            parts.append(self.vision_poolings[camera](aware, ignore))
        parts.append(self.proprio_encoder.mlp(proprio.flatten(0, 1)))
        return self.input_projection(torch.cat(parts, -1)).unflatten(0, (batch, time))

    def actions(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, H, A)."""
        heads = self.sizes.heads
        for layer in self.policy.layers:
            normed = layer.layernorm1(x)
            q, k, v = (
                getattr(layer.attention, name)(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            q, k = layer.attention.rope(q), layer.attention.rope(k)
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            seen = scores.masked_fill(future, -math.inf).softmax(-1) @ v
            x = x + layer.attention.out(seen.transpose(1, 2).flatten(2))
            x = x + layer.output(F.gelu(layer.intermediate(layer.layernorm2(x))))
        return self.action_head.mlp(x).unflatten(-1, (self.sizes.action_horizon, self.sizes.action_dim))


@torch.no_grad()
def make_otter(sizes: Sizes, seed: int = 0, batch: int = 2) -> dict[str, Tensor]:
    """A checkpoint with samples, in the layout of the golden tensors."""
    torch.manual_seed(seed)
    model = Otter(sizes).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 and "temperature" not in name and "logit_scale" not in name:
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms that matter
    size = model.clip_model.visual.image_size[0]
    images = torch.randn(batch, sizes.steps, sizes.cameras, 3, size, size)
    text = torch.zeros(batch, 20, dtype=torch.long)
    for row in range(batch):
        count = 4 + 2 * row
        start, end = (torch.tensor([marker]) for marker in sizes.markers)
        words = torch.randint(1, min(sizes.markers), (count,))
        text[row, : count + 2] = torch.cat([start, words, end])
    proprio = torch.randn(batch, sizes.steps, sizes.proprio)
    patches, words = model.features(images, text)
    tokens = model.tokens(patches, words, text, proprio)
    windows = [tokens[:1, max(0, t + 1 - sizes.seq_length) : t + 1] for t in range(sizes.steps)]
    return {
        **{f"weights.{key}": value.clone().contiguous() for key, value in model.state_dict().items()},
        "in.images": images,
        "in.text": text,
        "in.proprio": proprio,
        "out.patches": patches.contiguous(),
        "out.text": words.contiguous(),
        "out.token": tokens,
        "out.actions": model.actions(tokens),
        "out.stepwise_actions_sample0": torch.cat([model.actions(window)[:, -1] for window in windows]),
    }
