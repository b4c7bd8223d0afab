"""Public VLA-Adapter weights (github.com/OpenHelix-Team/VLA-Adapter) into a policy that gives the same numbers.

Shape letters: L layers, D width of the policy, E = A x (width of the language model), A action size.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature
from torch import Tensor

from fovea.encoders.files import refuse_overwriting
from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import ACTION, STATE, libero_inputs
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy
from fovea.policies.vla_adapter.processor_vla_adapter import make_vla_adapter_pre_post_processors
from fovea.policies.vla_adapter.public_files import HEAD, PROPRIO, read_public, read_statistics
from fovea.vlm.config import VLMConfig
from fovea.vlm.load_prismatic import group_of, listed, read_checkpoint

RANDOM_CROP = 0.9  # of the area, in the release's training
_ENDS = {"layer_norm1": "stem.norm", "fc1": "stem.linear", "layer_norm2": "head.norm", "fc2": "head.linear"}
_PROPRIO = {"fc1": "proprio.0", "fc2": "proprio.2"}
_BLOCK = {
    "ffn.0": "ffn.0",
    "ffn.1": "ffn.1",
    "q_proj": "attention.query",
    "o_proj": "attention.out",
}
_SHARED = {"k_proj": "attention.key_self", "v_proj": "attention.value_self"}
_SEPARATE = {
    "k_self": "attention.key_self",
    "v_self": "attention.value_self",
    "k_adapter": "attention.key_queries",
    "v_adapter": "attention.value_queries",
    "k_task": "attention.key_vision",
    "v_task": "attention.value_vision",
}


def convert_vla_adapter(
    source: Path,
    target: Path,
    *,
    chunk_size: int | None = None,
    n_heads: int | None = None,
    statistics: str | None = None,
    vlm: VLMConfig | None = None,
) -> VLAAdapterPolicy:
    """Convert VLA-Adapter's action head and proprioception projector, base or pro, to a policy folder.

    Sizes are read from the weights. The converted policy computes what the release computes at inference (`compat`),
    and its gripper has the release's convention (`gripper=one_is_open`) unless the statistics say that every action is
    scaled (`as_is`).

    Args:
        source: a file with `action_head.model.*` and `proprio_projector.*`, or a checkpoint folder with
            `action_head--*.pt`, `proprio_projector--*.pt` and, for scaling, dataset_statistics.json.
        target: folder to write: configuration, weights, processors.
        chunk_size: H, which no weight tells; None: what the file says of itself, else 8.
        n_heads: attention heads; None: what the file says of itself, else 8, as in the release.
        statistics: which data set of dataset_statistics.json; None where there is only one.
        vlm: the VLM to put in front, with the weights that its configuration names; None: the policy takes the states
            of a VLM from its batches (`states_from=batch`).

    Raises:
        FoveaError: no such file, weights that are not VLA-Adapter's, incomplete ones, statistics that do not fit, or
            a target where what is read would be overwritten.
    """
    for read in (source, None if vlm is None or vlm.checkpoint is None else Path(vlm.checkpoint)):
        if read is not None:
            refuse_overwriting(read, target)
    public = read_public(source)
    config = vla_adapter_config(
        public.weights,
        chunk_size=chunk_size or public.chunk_size or 8,
        n_heads=n_heads or public.n_heads or 8,
        vlm=vlm,
    )
    stats, gripper = read_statistics(source, statistics, config.proprio_size, config.action_size)
    config.gripper = gripper
    weights = vla_adapter_weights(public.weights, config)
    if config.vlm.checkpoint is not None and not any(
        group_of(key) == "action_queries" for key in read_checkpoint(config.vlm.checkpoint)
    ):
        raise FoveaError(
            f"expected the VLM that was finetuned with this policy, whose file holds action_queries, in "
            f"{config.vlm.checkpoint}, found none there; give the release's model.safetensors"
        )
    policy = VLAAdapterPolicy(config)
    config.vlm.checkpoint = None  # its weights are in the policy's folder from now on
    own = policy.model.state_dict()
    if misshapen := [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in weights.items()
        if value.shape != own[name].shape
    ]:
        raise FoveaError(f"expected VLA-Adapter's weights to fit one another, got {listed(misshapen)}")
    policy.model.load_state_dict(weights, strict=True)
    policy.save_pretrained(target)
    for processor in make_vla_adapter_pre_post_processors(config, stats):
        processor.save_pretrained(target)
    return policy.eval()


def vla_adapter_config(
    state: dict[str, Tensor], *, chunk_size: int = 8, n_heads: int = 8, vlm: VLMConfig | None = None
) -> VLAAdapterConfig:
    """Read variant and sizes from the weights.

    Raises:
        FoveaError: weights that are not VLA-Adapter's, or another VLM than they were trained with.
    """
    if f"{HEAD}fc1.weight" not in state or f"{PROPRIO}fc2.weight" not in state:
        raise FoveaError(
            f"expected VLA-Adapter's weights ({HEAD}*, {PROPRIO}*), got keys such as {sorted(state)[:3]}"
        )
    for key in (f"{HEAD}fc1.weight", f"{HEAD}fc2.weight", f"{PROPRIO}fc1.weight", f"{PROPRIO}fc2.weight"):
        if key not in state or state[key].ndim != 2:
            got = tuple(state[key].shape) if key in state else "nothing"
            raise FoveaError(f"expected a matrix as {key} of VLA-Adapter's weights, got {got}")
    width, latent = state[f"{HEAD}fc1.weight"].shape
    action = state[f"{HEAD}fc2.weight"].shape[0]
    states, proprio = state[f"{PROPRIO}fc2.weight"].shape[0], state[f"{PROPRIO}fc1.weight"].shape[1]
    blocks = {int(number) for key in state if (number := _block_of(key)) is not None}
    if latent != action * states or not blocks:
        raise FoveaError(
            f"expected blocks, and latents of {action} actions x {states} numbers, got {len(blocks)} blocks "
            f"and latents of {latent} numbers"
        )
    if vlm is not None and (vlm.layers, vlm.width) != (len(blocks), states):
        raise FoveaError(
            f"expected a VLM of {len(blocks)} layers and width {states}, got {vlm.layers} and {vlm.width}"
        )
    return VLAAdapterConfig(
        input_features=libero_inputs(224) | {STATE: PolicyFeature(type=FeatureType.STATE, shape=(proprio,))},
        output_features={ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(action,))},
        variant="pro" if f"{HEAD}mlp_resnet_blocks.0.k_task.weight" in state else "base",
        compat=True,
        gripper="one_is_open",
        center_crop=RANDOM_CROP,
        vlm=_outside(len(blocks), states) if vlm is None else replace(vlm, compat=True),
        states_from="batch" if vlm is None else "vlm",
        dim_model=width,
        n_heads=n_heads,
        chunk_size=chunk_size,
        n_action_steps=chunk_size,
    )


def _outside(layers: int, width: int) -> VLMConfig:
    """The sizes of a VLM that runs elsewhere; raw features are not used."""
    full = VLMConfig.full()
    if (layers, width) == (full.layers, full.width):
        return VLMConfig.full(compat=True, encoder_grid=(16, 16), feature_width=2176)
    sizes: dict[str, Any] = {
        "layers": layers,
        "width": width,
        "heads": 1,
        "kv_heads": 1,
        "feature_width": width,
    }
    return VLMConfig.full(compat=True, trainable="nothing", **sizes)


def _block_of(key: str) -> str | None:
    found = re.match(re.escape(HEAD) + r"mlp_resnet_blocks\.(\d+)\.", key)
    return found.group(1) if found else None


def vla_adapter_weights(state: dict[str, Tensor], config: VLAAdapterConfig) -> dict[str, Tensor]:
    """Rename public weights to those of `ChunkNetwork`.

    Raises:
        FoveaError: lists what is missing and what has no place.
    """
    pro = config.variant == "pro"
    pairs = {f"{HEAD}{theirs}": ours for theirs, ours in _ENDS.items()}
    pairs |= {f"{PROPRIO}{theirs}": ours for theirs, ours in _PROPRIO.items()}
    inside = _BLOCK | (_SEPARATE | {"film_gen.0": "film"} if pro else _SHARED)
    names: dict[str, str] = {}
    for index in range(config.vlm.layers):
        block = f"{HEAD}mlp_resnet_blocks.{index}."
        pairs |= {block + theirs: f"blocks.{index}.{ours}" for theirs, ours in inside.items()}
        names[f"{block}gating_factor"] = f"blocks.{index}.attention.gate.factor"
    names |= {f"{a}.{part}": f"{b}.{part}" for a, b in pairs.items() for part in ("weight", "bias")}
    missing, unknown = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or unknown:
        lines = [*(f"missing {key}" for key in missing), *(f"unexpected {key}" for key in unknown)]
        raise FoveaError(
            f"expected the weights of VLA-Adapter ({config.variant}), {config.vlm.layers} blocks, got:\n  "
            + "\n  ".join(lines)
        )
    return {ours: state[theirs].float() for theirs, ours in names.items()}
