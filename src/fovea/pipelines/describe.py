"""What a policy is made of: its parts and their parameters, counted without building any of them in memory."""

import math
from pathlib import Path
from typing import Any

import torch
from draccus.utils import DraccusException
from lerobot.configs import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins
from safetensors import SafetensorError, safe_open
from torch import nn

from fovea.errors import FoveaError
from fovea.pipelines.policies import CONFIGS, encoder_of
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.vlm_policy.configuration import VLMPolicyConfig
from fovea.policies.vlm_policy.policy import as_saved


def describe_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Describe the policy in a folder; one that is not ours by the size of its weights only.

    Raises:
        FoveaError: no policy in the folder.
    """
    folder = checkpoint / "pretrained_model" if (checkpoint / "pretrained_model").is_dir() else checkpoint
    weights = folder / "model.safetensors"
    if not (folder / "config.json").is_file():
        raise FoveaError(
            f"expected a policy type ({', '.join(CONFIGS)}) or the folder of a policy, found no config.json in {folder}"
        )
    register_third_party_plugins()
    try:
        config = PreTrainedConfig.from_pretrained(folder)
    except (ValueError, DraccusException, ImportError) as error:
        raise FoveaError(f"LeRobot cannot read {folder / 'config.json'}: {error}") from error
    if isinstance(config, VLMPolicyConfig):
        as_saved(config, folder)
    if config.type in CONFIGS:
        return describe_policy(config)
    if not weights.is_file():
        raise FoveaError(f"expected the weights of a {config.type} policy in {weights}, found none")
    try:
        with safe_open(weights, framework="pt") as file:
            total = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise FoveaError(f"{weights} is truncated or damaged ({error})") from error
    return {"type": config.type, "title": config.type, "parameters": {"policy": total, "total": total}}


def describe_policy(config: PreTrainedConfig) -> dict[str, Any]:
    """Sizes and parameters of one of our policies, on the meta device.

    Returns:
        `type`, `title`, `sizes`, and `parameters`: `policy` (as the papers count it: neither the projector of
        proprioception nor learned chunk queries), `chunk_queries`, `proprio_projector`, `vlm_trainable` (action queries
        and what is trained with them), `vlm` (all of it), and `total`, which is `policy` and `vlm_trainable`.
    """
    if isinstance(config, VLMPolicyConfig):
        return {"type": config.type, "title": config.title, **_over_a_vlm(config)}
    if isinstance(config, EFVLAConfig):
        return {
            "type": config.type,
            "title": "LF-VLA" if config.fusion == "late" else "EF-VLA",
            **_ef_vla(config),
        }
    raise FoveaError(f"expected one of our policies ({', '.join(CONFIGS)}), got {config.type}")


def _over_a_vlm(config: VLMPolicyConfig) -> dict[str, Any]:
    from fovea.policies.vlm_policy.network import ChunkNetwork, VLMFacts
    from fovea.vlm import create_vlm

    small = config.states_from == "vlm" and config.vlm.kind == "tiny"
    encoder = encoder_of(config) if small else None  # a large one is built without weights, below
    with torch.device("meta"):
        vlm = None
        facts = VLMFacts(config.vlm.layers, config.vlm.width, config.vlm.feature_width or config.vlm.width)
        if config.states_from == "vlm":
            config.vlm.cameras = len(config.camera_keys)
            vlm = create_vlm(config.vlm, encoder=encoder, load_weights=False)
            facts = VLMFacts(vlm.layers, vlm.width, vlm.feature_width, vlm.grid)
        model = ChunkNetwork(config, facts)
    queries = 0 if model.stem.queries is None else model.stem.queries.numel()
    proprio = count(model.proprio)
    policy = count(model) - queries - proprio
    trained = 0 if vlm is None else count(vlm, trained=True)
    sizes = {
        "layers": facts.layers,
        "width": config.dim_model or facts.width,
        "heads": config.n_heads,
        "chunk": config.chunk_size,
        "actions": config.action_size,
        "vision_tokens": None
        if vlm is None or config.representation == "vggt"
        else vlm.patches * vlm.cameras // (4 if config.pool_vision else 1),
        "top_k": config.top_k,
    }
    parameters = {
        "policy": policy,
        "chunk_queries": queries,
        "proprio_projector": proprio,
        "vlm_trainable": trained,
        "vlm": 0 if vlm is None else count(vlm),
        "total": policy + trained,
    }
    return {"sizes": sizes, "parameters": parameters}


def _ef_vla(config: EFVLAConfig) -> dict[str, Any]:
    from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy

    known = config.encoder_width is not None and config.encoder_grid is not None
    encoder = None if known and not config.uses_pixels else encoder_of(config)
    with torch.device("meta"):
        policy = EFVLAPolicy(config, encoder=encoder)  # type: ignore[arg-type]
    sizes = {
        "layers": config.n_layers,
        "width": config.dim_model,
        "heads": config.n_heads,
        "context": config.n_obs_steps,
        "chunk": config.chunk_size,
        "actions": config.action_size,
    }
    trained = count(policy, trained=True)
    return {"sizes": sizes, "parameters": {"policy": trained, "total": trained}}


def count(module: nn.Module, trained: bool = False) -> int:
    """Parameters of a module, all or those that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
