"""Public OTTER weights (github.com/Max-Fu/otter) into an EF-VLA policy that gives the same numbers."""

import math
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from safetensors.torch import load_file, save_file
from torch import Tensor

from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import ACTION, LIBERO_CAMERAS, STATE, EFVLAConfig
from fovea.policies.ef_vla.model_ef_vla import EFVLAModel
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors

_CLIP = "clip_model."
_READOUTS = {
    "q_layer_norm": "attention_norm",
    "attention.out_proj": "attention.out",
    "layer_norm": "mlp_norm",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_TIME = {
    "layernorm1": "attention_norm",
    "attention.query": "attention.query",
    "attention.key": "attention.key",
    "attention.value": "attention.value",
    "attention.out": "attention.out",
    "layernorm2": "mlp_norm",
    "intermediate": "mlp.0",
    "output": "mlp.2",
}


def convert_otter(source: Path, target: Path, **options: Any) -> EFVLAPolicy:
    """Convert an OTTER state dict in a safetensors file to a policy folder.

    Its CLIP, which is OpenAI's, goes to `clip.safetensors` in that folder, for machines that cannot download it.

    Args:
        source: safetensors file with OTTER's names (`clip_model.*`, `vision_poolings.*`, ...).
        target: folder to write: configuration, weights, processors.
        **options: see `otter_config`.

    Raises:
        FoveaError: no such file, a pickle, or weights that are not OTTER's.
    """
    if not source.is_file() or source.suffix != ".safetensors":
        raise FoveaError(f"expected OTTER's weights in a .safetensors file, got {source}")
    state = load_file(source)
    policy = EFVLAPolicy(otter_config(state, **options))
    policy.model.load_state_dict(otter_weights(state, policy.config), strict=True)
    policy.save_pretrained(target)
    for processor in make_ef_vla_pre_post_processors(policy.config):
        processor.save_pretrained(target)
    clip = {key.removeprefix(_CLIP): value for key, value in state.items() if key.startswith(_CLIP)}
    save_file(clip, target / "clip.safetensors")
    return policy.eval()


def otter_config(
    state: dict[str, Tensor],
    *,
    encoder: str = "ViT-L-14/openai",
    n_obs_steps: int = 12,
    action_size: int = 10,
    pooling_heads: int = 8,
    word_positions: int = 15,
) -> EFVLAConfig:
    """Read the sizes of an OTTER state dict; the arguments are what shapes do not tell.

    Args:
        encoder: name of its CLIP.
        n_obs_steps: its `seq_length`.
        action_size: its `action_dim`.
        pooling_heads: its `pooling_heads`.
        word_positions: its `first_k_tokens`.
    """
    if "input_projection.weight" not in state or "visual_extraction.0.pos_emb" not in state:
        raise FoveaError(f"expected OTTER's weights, got keys such as {sorted(state)[:3]}")
    cameras = _count(state, "vision_poolings")
    patches, width = state["visual_extraction.0.pos_emb"].shape
    side = math.isqrt(patches)
    dim_model = state["input_projection.weight"].shape[0]
    readouts, readout_width = state["vision_poolings.0.query"].shape[1:]
    keys = LIBERO_CAMERAS if cameras == 2 else [f"observation.images.image{i}" for i in range(cameras)]
    inputs = {key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, 224, 224)) for key in keys}
    proprio = state["proprio_encoder.mlp.0.weight"].shape[1]
    return EFVLAConfig.preset(
        "otter",
        input_features={**inputs, STATE: PolicyFeature(type=FeatureType.STATE, shape=(proprio,))},
        output_features={ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(action_size,))},
        encoder=encoder,
        encoder_width=width,
        encoder_grid=(side, side),
        word_positions=word_positions,
        n_obs_steps=n_obs_steps,
        chunk_size=state["action_head.mlp.2.weight"].shape[0] // action_size,
        n_action_steps=min(8, state["action_head.mlp.2.weight"].shape[0] // action_size),
        readouts=readouts,
        pooling_blocks=_count(state, "text_pooling.blocks"),
        pooling_heads=pooling_heads,
        text_width=state["text_pooling.query"].shape[1:].numel(),
        vision_width=cameras * readouts * readout_width,
        proprio_width=state["proprio_encoder.mlp.4.weight"].shape[0],
        proprio_hidden=state["proprio_encoder.mlp.0.weight"].shape[0],
        dim_model=dim_model,
        n_layers=_count(state, "policy.layers"),
        n_heads=dim_model // state["policy.layers.0.attention.rope.emb"].shape[1],
        mlp_ratio=state["policy.layers.0.intermediate.weight"].shape[0] / dim_model,
    )


def otter_weights(state: dict[str, Tensor], config: EFVLAConfig) -> dict[str, Tensor]:
    """Rename OTTER's weights to those of `EFVLAModel`; CLIP and fixed position tables are left out."""
    cameras = len(config.camera_keys)
    tau = torch.stack([state[f"visual_extraction.{i}.temperature"] for i in range(cameras)])
    new = {"fusion.log_scale": -tau.clamp(0.01, 100.0).log()}
    _readouts(new, state, "text_pooling", "text_pooling", config.pooling_blocks)
    for i in range(cameras):
        _readouts(new, state, f"vision_poolings.{i}", f"vision_pooling.{i}", config.pooling_blocks)
    for i in range(config.n_layers):
        for theirs, ours in _TIME.items():
            _linear(new, state, f"policy.layers.{i}.{theirs}", f"transformer.blocks.{i}.{ours}")
    for i in (0, 2, 4):
        _linear(new, state, f"proprio_encoder.mlp.{i}", f"proprio.{i}")
    for i in (0, 2):
        _linear(new, state, f"action_head.mlp.{i}", f"head.net.{i}")
    _linear(new, state, "input_projection", "input")
    wanted = EFVLAModel(config).state_dict().keys()
    if new.keys() != wanted:
        raise FoveaError(f"these OTTER weights do not cover {sorted(wanted ^ new.keys())}")
    return {key: value.float() for key, value in new.items()}


def _readouts(new: dict[str, Tensor], state: dict[str, Tensor], theirs: str, ours: str, blocks: int) -> None:
    new[f"{ours}.query"] = _get(state, f"{theirs}.query")[0]
    _linear(new, state, f"{theirs}.layer_norm", f"{ours}.norm")
    for i in range(blocks):
        block, renamed = f"{theirs}.blocks.{i}", f"{ours}.blocks.{i}"
        for their_name, our_name in _READOUTS.items():
            _linear(new, state, f"{block}.{their_name}", f"{renamed}.{our_name}")
        biases = _get(state, f"{block}.attention.in_proj_bias").chunk(3)
        for letter, our_name, bias in zip("qkv", ("query", "key", "value"), biases, strict=True):
            new[f"{renamed}.attention.{our_name}.weight"] = _get(
                state, f"{block}.attention.{letter}_proj_weight"
            )
            new[f"{renamed}.attention.{our_name}.bias"] = bias


def _linear(new: dict[str, Tensor], state: dict[str, Tensor], theirs: str, ours: str) -> None:
    for part in ("weight", "bias"):
        new[f"{ours}.{part}"] = _get(state, f"{theirs}.{part}")


def _get(state: dict[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise FoveaError(f"expected {key} among OTTER's weights, it is missing; is the file complete?")
    return state[key]


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Number of children of a module list, from its keys."""
    return len(
        {key.removeprefix(prefix + ".").split(".")[0] for key in state if key.startswith(prefix + ".")}
    )
