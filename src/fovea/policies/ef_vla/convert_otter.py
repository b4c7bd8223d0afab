"""Public OTTER weights (github.com/Max-Fu/otter) into an EF-VLA policy that gives the same numbers.

Sizes are read from the tensors; `OtterFacts` holds what tensors cannot tell. OTTER's own CLIP, in OpenAI's layout, goes
to `clip.safetensors` beside the policy, which finds it there.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from safetensors.torch import save_file
from torch import Tensor

from fovea.encoders.clip_openai import openai_clip
from fovea.encoders.files import refuse_overwriting
from fovea.errors import FoveaError
from fovea.nn.positions import rotary_angles, sincos_1d
from fovea.policies.ef_vla.configuration_ef_vla import ACTION, LIBERO_CAMERAS, STATE, EFVLAConfig
from fovea.policies.ef_vla.model_ef_vla import EFVLAModel
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.otter_file import MARK, OtterFacts, OtterFile, read_otter
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors

CLIP_FILE = "clip.safetensors"
POSE_SIZE = 10
TABLE_TOLERANCE = 1e-4  # fixed tables in single precision, whose angles were computed in single precision too
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
_FINAL_NORMS = ("policy.norm", "policy.layer_norm", "policy.layernorm", "policy.final_norm", "policy.ln_f")


def convert_otter(source: Path, target: Path, *, prefix: str | None = None, **given: Any) -> EFVLAPolicy:
    """Convert an OTTER checkpoint to a policy folder.

    Args:
        source: file with OTTER's names (`clip_model.*`, `vision_poolings.*`, ...): safetensors, or a state dict that
            torch saved.
        target: folder to write: configuration, weights, processors, and OTTER's CLIP if the file has it.
        prefix: of the weights' names, where the file holds several sets; see `read_otter`.
        **given: fields of `OtterFacts` that are known; they win over the file's metadata.

    Returns:
        the policy, in eval mode.

    Raises:
        FoveaError: no such file, not OTTER's weights or not all of them, or a `source` that it would overwrite.
    """
    refuse_overwriting(source, target)
    return convert_otter_file(read_otter(source, prefix), target, **given)


def convert_otter_file(file: OtterFile, target: Path, **given: Any) -> EFVLAPolicy:
    """`convert_otter` of a checkpoint that was read already; the caller sees to it that it is not overwritten.

    Args:
        file: what `read_otter` gave; not changed.
        target: folder to write.
        **given: fields of `OtterFacts` that are known; they win over the file's metadata.

    Returns:
        the policy, in eval mode.

    Raises:
        FoveaError: not OTTER's weights, or not all of them.
    """
    facts = file.facts.updated(**given)
    config = otter_config(file.state, facts)
    weights = otter_weights(file.state, config)  # before anything is written
    encoder, known = None, {name: value for name, value in facts.clip.items() if value is not None}
    if file.clip and facts.encoder is None:
        config.encoder = f"clip:{CLIP_FILE}"
        encoder = openai_clip(file.clip, name=config.encoder, facts=known).freeze()
    policy = EFVLAPolicy(config, encoder=encoder, source=target)
    policy.model.load_state_dict(weights, strict=True)
    if encoder is not None:
        target.mkdir(parents=True, exist_ok=True)
        save_file(file.clip, target / CLIP_FILE, {"clip": json.dumps(known)})
    policy.save_pretrained(target)
    for processor in make_ef_vla_pre_post_processors(config):
        processor.save_pretrained(target)
    return policy.eval()


def otter_config(state: dict[str, Tensor], facts: OtterFacts | None = None, **given: Any) -> EFVLAConfig:
    """Read the sizes of an OTTER state dict.

    Args:
        state: without `clip_model.*`.
        facts, **given: what shapes do not tell.

    Raises:
        FoveaError: the tensors are not OTTER's, or a fact does not fit them.
    """
    facts = (facts or OtterFacts()).updated(**given)
    if MARK not in state or "visual_extraction.0.pos_emb" not in state:
        raise FoveaError(f"expected OTTER's weights, got keys such as {sorted(state)[:3]}")
    cameras = _count(state, "vision_poolings")
    patches, width = _shape(state, "visual_extraction.0.pos_emb", 2)
    side = round(patches**0.5)
    if side * side != patches:
        raise FoveaError(f"expected a square grid of patches in OTTER's weights, got {patches} patches")
    dim_model, _ = _shape(state, MARK, 2)
    _, readouts, readout_width = _shape(state, "vision_poolings.0.query", 3)
    proprio_hidden, proprio = _shape(state, "proprio_encoder.mlp.0.weight", 2)
    action_size, chunk_size = _actions(state, facts)
    context = facts.n_obs_steps or 12
    poses = action_size == proprio == POSE_SIZE
    space = facts.action_space or ("se3_relative" if poses else "env")
    layout = facts.state_layout or "as_is"
    if layout == "axis_angle" and not (poses and space == "se3_relative"):
        raise FoveaError(
            f"state_layout=axis_angle: expected a checkpoint of poses ({POSE_SIZE} numbers a state and an action, "
            f"action_space=se3_relative), got {proprio} and {action_size} with action_space={space}"
        )
    sizes = (proprio, action_size) if layout == "as_is" else (8, 7)  # LIBERO's
    image = {"type": FeatureType.VISUAL, "shape": (3, side * facts.patch, side * facts.patch)}
    return EFVLAConfig.preset(
        "otter",
        input_features={
            **{key: PolicyFeature(**image) for key in _camera_keys(facts, cameras)},
            STATE: PolicyFeature(type=FeatureType.STATE, shape=(sizes[0],)),
        },
        output_features={ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(sizes[1],))},
        encoder=facts.encoder or "ViT-L-14/openai",
        encoder_width=width,
        encoder_grid=(side, side),
        word_positions=facts.word_positions or 15,
        pool_true_text=bool(facts.pool_true_text),
        n_obs_steps=context,
        chunk_size=chunk_size,
        n_action_steps=min(8, chunk_size),
        readouts=readouts,
        pooling_blocks=_count(state, "text_pooling.blocks"),
        pooling_heads=facts.pooling_heads or 8,
        text_width=math.prod(_shape(state, "text_pooling.query", 3)[1:]),
        vision_width=cameras * readouts * readout_width,
        proprio_width=_shape(state, "proprio_encoder.mlp.4.weight", 2)[0],
        proprio_hidden=proprio_hidden,
        dim_model=dim_model,
        n_layers=_count(state, "policy.layers"),
        n_heads=_heads(state, facts, dim_model),
        mlp_ratio=_shape(state, "policy.layers.0.intermediate.weight", 2)[0] / dim_model,
        final_norm=_final_norm(state) is not None,
        action_space=space,
        state_layout=layout,
        normalization_mapping=dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY),
    )


def otter_weights(state: dict[str, Tensor], config: EFVLAConfig) -> dict[str, Tensor]:
    """Rename OTTER's weights to those of `EFVLAModel`.

    Fixed position tables are compared with ours and left out.

    Raises:
        FoveaError: a weight is missing, unknown or misshapen, or a table is not the one that we compute.
    """
    state = dict(state)
    cameras = len(config.camera_keys)
    tau = torch.stack([_number(state, f"visual_extraction.{i}.temperature") for i in range(cameras)]).float()
    if not (tau > 0).all():
        raise FoveaError(
            f"expected positive temperatures, got {tau.tolist()}: OTTER itself divides by them and gives NaN"
        )
    new = {"fusion.log_scale": -tau.clamp(max=100.0).log()}
    _check_tables(state, config)
    _readouts(new, state, "text_pooling", "text_pooling", config.pooling_blocks)
    for i in range(cameras):
        _readouts(new, state, f"vision_poolings.{i}", f"vision_pooling.{i}", config.pooling_blocks)
    for i in range(config.n_layers):
        for theirs, ours in _TIME.items():
            _linear(new, state, f"policy.layers.{i}.{theirs}", f"transformer.blocks.{i}.{ours}")
    if (norm := _final_norm(state)) is not None:
        _linear(new, state, norm, "transformer.norm")
    for i in (0, 2, 4):
        _linear(new, state, f"proprio_encoder.mlp.{i}", f"proprio.{i}")
    for i in (0, 2):
        _linear(new, state, f"action_head.mlp.{i}", f"head.net.{i}")
    _linear(new, state, "input_projection", "input")
    if state:
        raise FoveaError(f"expected OTTER's weights and no others, got {', '.join(sorted(state)[:8])} too")
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in EFVLAModel(config).state_dict().items()}
    for key in sorted(wanted.keys() | new.keys()):
        got = tuple(new[key].shape) if key in new else None
        if got != wanted.get(key):
            raise FoveaError(
                f"these OTTER weights give {key} the shape {got}, expected {wanted.get(key)}; do the facts (heads, "
                "readouts, actions) fit the file?"
            )
    return {key: value.float() for key, value in new.items()}


def _actions(state: dict[str, Tensor], facts: OtterFacts) -> tuple[int, int]:
    """(A, H) from the width of the head's output, one of them and their product being known."""
    outputs, _ = _shape(state, "action_head.mlp.2.weight", 2)
    size = facts.action_size or (outputs // facts.chunk_size if facts.chunk_size else POSE_SIZE)
    if outputs % size or (facts.chunk_size or outputs // size) != outputs // size:
        raise FoveaError(
            f"expected action_size x chunk_size = {outputs}, the outputs of this head, got {size} x "
            f"{facts.chunk_size or '?'}; give --action_size"
        )
    return size, outputs // size


def _heads(state: dict[str, Tensor], facts: OtterFacts, dim_model: int) -> int:
    """Heads of the transformer: given, or from the rotary table, as wide as a head; the two must agree."""
    table = "policy.layers.0.attention.rope.emb"
    if facts.n_heads is not None and table not in state:
        return facts.n_heads
    _, width = _shape(state, table, 2)
    if dim_model % width or facts.n_heads not in (None, dim_model // width):
        raise FoveaError(
            f"expected n_heads = {dim_model} / {width}, the widths of this transformer and of its rotary table, got "
            f"{facts.n_heads or 'no whole number'}; leave --n_heads out, or give the checkpoint's own"
        )
    return dim_model // width


def _camera_keys(facts: OtterFacts, cameras: int) -> list[str]:
    """Keys in the order of OTTER's modules, which is the sorted one."""
    if facts.cameras is not None:
        if len(set(facts.cameras)) != cameras:
            raise FoveaError(f"expected {cameras} different cameras, got {', '.join(facts.cameras)}")
        names = sorted(facts.cameras)
        last = [name.rpartition(".")[2] for name in names]
        if last != sorted(set(last)):
            raise FoveaError(
                f"cameras: expected names whose last parts are different and in the same order as the names, got "
                f"{', '.join(last)} from {', '.join(names)}, the order of OTTER's modules; give names without dots "
                "that sort as these do"
            )
        return [f"observation.images.{name}" for name in last]
    if cameras == 2:
        return list(LIBERO_CAMERAS)
    return [f"observation.images.image{i:0{len(str(cameras))}d}" for i in range(cameras)]


def _check_tables(state: dict[str, Tensor], config: EFVLAConfig) -> None:
    """Take the fixed tables out of the state dict; they must be the ones that the model computes."""
    expected: dict[str, Tensor] = {}
    patches = _get(state, "visual_extraction.0.pos_emb").shape[0]
    for i in range(len(config.camera_keys)):
        expected[f"visual_extraction.{i}.pos_emb"] = sincos_1d(patches, config.encoder_width or 0)
    for i in range(config.n_layers):
        rope = f"policy.layers.{i}.attention.rope"
        if f"{rope}.emb" in state:
            steps, width = _shape(state, f"{rope}.emb", 2)
            angles = rotary_angles(torch.arange(steps), width)
            expected[f"{rope}.emb"] = torch.cat([angles.sin(), angles.cos()], dim=1)
        if f"{rope}.inv_freq" in state:
            expected[f"{rope}.inv_freq"] = rotary_angles(torch.ones(1), config.dim_model // config.n_heads)[0]
    for key, ours in expected.items():
        theirs = _take(state, key)
        same = theirs.shape == ours.shape and torch.allclose(
            theirs.float(), ours, rtol=_rounding(theirs), atol=TABLE_TOLERANCE
        )
        if not same:
            raise FoveaError(
                f"expected the fixed table {key} of OTTER's release, got other numbers; is it a fork?"
            )


def _rounding(stored: Tensor) -> float:
    """How far numbers may be off that were stored as these are, relative to their size; 0 in single precision.

    Half precision that was cast to single is half precision still.
    """
    for precision in (torch.bfloat16, torch.float16):
        if torch.equal(stored, stored.to(precision).to(stored.dtype)):
            return torch.finfo(precision).eps
    return 0.0


def _final_norm(state: dict[str, Tensor]) -> str | None:
    """The layer norm after OTTER's transformer; its release has none, forks may."""
    return next((name for name in _FINAL_NORMS if f"{name}.weight" in state), None)


def _readouts(new: dict[str, Tensor], state: dict[str, Tensor], theirs: str, ours: str, blocks: int) -> None:
    if (shape := _shape(state, f"{theirs}.query", 3))[0] != 1:
        raise FoveaError(
            f"expected {theirs}.query of OTTER's weights of shape (1, {shape[1]}, {shape[2]}), got {shape}"
        )
    new[f"{ours}.query"] = _take(state, f"{theirs}.query")[0]
    _linear(new, state, f"{theirs}.layer_norm", f"{ours}.norm")
    for i in range(blocks):
        block, renamed = f"{theirs}.blocks.{i}", f"{ours}.blocks.{i}"
        for their_name, our_name in _READOUTS.items():
            _linear(new, state, f"{block}.{their_name}", f"{renamed}.{our_name}")
        if _shape(state, f"{block}.attention.in_proj_bias", 1)[0] % 3:
            raise FoveaError(
                f"expected {block}.attention.in_proj_bias of OTTER's weights in three parts of one size"
            )
        biases = _take(state, f"{block}.attention.in_proj_bias").chunk(3)
        joint = state.pop(
            f"{block}.attention.in_proj_weight", None
        )  # torch joins them where the widths are the same
        weights = None if joint is None else joint.chunk(3)
        for index, (letter, our_name) in enumerate(zip("qkv", ("query", "key", "value"), strict=True)):
            weight = (
                _take(state, f"{block}.attention.{letter}_proj_weight") if weights is None else weights[index]
            )
            new[f"{renamed}.attention.{our_name}.weight"] = weight
            new[f"{renamed}.attention.{our_name}.bias"] = biases[index]


def _linear(new: dict[str, Tensor], state: dict[str, Tensor], theirs: str, ours: str) -> None:
    for part in ("weight", "bias"):
        new[f"{ours}.{part}"] = _take(state, f"{theirs}.{part}")


def _get(state: dict[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise FoveaError(f"expected {key} among OTTER's weights, it is missing; is the file complete?")
    return state[key]


def _shape(state: dict[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    shape = tuple(_get(state, key).shape)
    if len(shape) != dimensions:
        raise FoveaError(
            f"expected {key} of OTTER's weights to have {dimensions} dimensions, got shape {shape}"
        )
    if 0 in shape:
        raise FoveaError(f"expected numbers in {key} of OTTER's weights, got shape {shape}, which holds none")
    return shape


def _number(state: dict[str, Tensor], key: str) -> Tensor:
    """A single number, in as many dimensions as it likes, as a scalar."""
    value = _take(state, key)
    if value.numel() != 1:
        raise FoveaError(f"expected one number in {key} of OTTER's weights, got shape {tuple(value.shape)}")
    return value.reshape(())


def _take(state: dict[str, Tensor], key: str) -> Tensor:
    value = _get(state, key)
    del state[key]
    return value


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Number of children of a module list, from its keys."""
    return len(
        {key.removeprefix(prefix + ".").split(".")[0] for key in state if key.startswith(prefix + ".")}
    )
