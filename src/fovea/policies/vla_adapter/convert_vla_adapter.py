"""Public VLA-Adapter weights (github.com/OpenHelix-Team/VLA-Adapter) into a policy that gives the same numbers.

Shape letters: L layers, D width of the policy, E = A x (width of the language model), A action size.
"""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import ACTION, STATE, libero_inputs
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy
from fovea.policies.vla_adapter.processor_vla_adapter import make_vla_adapter_pre_post_processors
from fovea.vlm.config import VLMConfig

HEAD, PROPRIO = "action_head.model.", "proprio_projector."
STATISTICS = "dataset_statistics.json"
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
    and its gripper has the release's convention (`gripper=one_is_open`).

    Args:
        source: a .safetensors file with `action_head.model.*` and `proprio_projector.*`, or a checkpoint folder with
            `action_head--*.pt`, `proprio_projector--*.pt` and, for scaling, dataset_statistics.json.
        target: folder to write: configuration, weights, processors.
        chunk_size: H, which no weight tells; None: what the file says of itself, else 8.
        n_heads: attention heads; None: what the file says of itself, else 8.
        statistics: which data set of dataset_statistics.json; None where there is only one.
        vlm: the VLM to put in front, with the weights that its configuration names; None: the policy takes the states
            of a VLM from its batches (`states_from=batch`).

    Raises:
        FoveaError: no such file, weights that are not VLA-Adapter's, incomplete ones, or statistics that do not fit.
    """
    state, said = read_weights(source)
    config = vla_adapter_config(
        state,
        chunk_size=chunk_size or said.get("chunk", 8),
        n_heads=n_heads or said.get("heads", 8),
        vlm=vlm,
    )
    stats = _statistics(source, statistics, config)
    policy = VLAAdapterPolicy(config)
    policy.model.load_state_dict(vla_adapter_weights(state, config), strict=True)
    policy.save_pretrained(target)
    for processor in make_vla_adapter_pre_post_processors(config, stats):
        processor.save_pretrained(target)
    return policy.eval()


def read_weights(source: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Weights by their public names, and the numbers that a file's metadata tells ("heads=8")."""
    state: dict[str, Tensor] = {}
    said: dict[str, int] = {}
    if source.is_dir():
        for part, prefix in (("action_head", "action_head."), ("proprio_projector", PROPRIO)):
            files = sorted(source.glob(f"{part}--*.pt")) + sorted(source.glob(f"{part}*.safetensors"))
            if len(files) != 1:
                raise FoveaError(
                    f"expected one {part}--*.pt (or .safetensors) in {source}, found {len(files)}; "
                    "is this a checkpoint of VLA-Adapter, or are there several steps in it?"
                )
            loaded = _load(files[0])[0]
            state |= {prefix + key.removeprefix(prefix): value for key, value in loaded.items()}
    else:
        state, said = _load(source)
    wanted = (HEAD, PROPRIO)
    return {key: value for key, value in state.items() if key.startswith(wanted)}, said


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    if not file.is_file() or file.suffix not in (".safetensors", ".pt", ".pth"):
        raise FoveaError(
            f"expected VLA-Adapter's weights in a .safetensors or .pt file or a folder, got {file}"
        )
    said: dict[str, int] = {}
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as content:
                state = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
                for text in (content.metadata() or {}).values():
                    said |= {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", text)}
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FoveaError(f"{file} cannot be read as plain weights: {error}") from error
    clean = {re.sub(r"^(weights\.)?(module\.)?", "", key): value for key, value in state.items()}
    return clean, said


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
        vlm=vlm or _outside(len(blocks), states),
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


def _statistics(source: Path, name: str | None, config: VLAAdapterConfig) -> dict[str, dict[str, Any]] | None:
    """q01 and q99 of states and actions, as OpenVLA and its heirs save them; None without the file."""
    file = (source if source.is_dir() else source.parent) / STATISTICS
    if not file.is_file():
        return None
    found = json.loads(file.read_text())
    if name is None and len(found) != 1:
        raise FoveaError(f"expected --statistics among {', '.join(found)}: {file} holds several data sets")
    name = name or next(iter(found))
    if name not in found:
        raise FoveaError(f"expected --statistics among {', '.join(found)}, got {name!r}")
    stats: dict[str, dict[str, Any]] = {}
    sizes = {"proprio": (STATE, config.proprio_size), "action": (ACTION, config.action_size)}
    for theirs, (ours, size) in sizes.items():
        column = {
            edge: np.asarray(found[name].get(theirs, {}).get(edge, ()), np.float32) for edge in ("q01", "q99")
        }
        if any(value.shape != (size,) for value in column.values()):
            raise FoveaError(
                f"expected {size} numbers in q01 and q99 of {name}.{theirs} in {file}, got "
                f"{[value.shape for value in column.values()]}"
            )
        stats[ours] = column
    return stats
