"""An OTTER checkpoint as a file: its tensors, and what tensors cannot tell."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from fovea.encoders.files import SUFFIXES, check_weight, in_single_precision, read_weights
from fovea.errors import FoveaError

CLIP = "clip_model."
CLIP_FACTS = ("vision_heads", "transformer_heads", "activation", "start_token", "end_token")
MARK = "input_projection.weight"  # every OTTER has it
NO_PREFIX = "none"
_COUNTS = ("n_obs_steps", "chunk_size", "action_size", "n_heads", "pooling_heads", "word_positions", "patch")


@dataclass(frozen=True)
class OtterFacts:
    """What the shapes of an OTTER checkpoint do not say. None: as OTTER's release, or read from the tensors.

    Args:
        encoder: name of the CLIP to use; None takes the file's own, or ViT-L-14/openai if it has none.
        n_obs_steps: `seq_length`, 12.
        chunk_size: `action_horizon`, from the head's outputs.
        action_size: `action_dim`, 10.
        n_heads: `transformer_heads`, from the rotary table.
        pooling_heads: `pooling_heads`, 8.
        word_positions: `first_k_tokens`, 15.
        pool_true_text: keep start, end and padding out of the poolings.
        action_space: `se3_relative` (10 numbers a pose) or `env` (any other).
        state_layout: `as_is`; or `axis_angle`, for poses that are to be read from LIBERO's states.
        cameras: names; the release sorts them.
        clip: of its CLIP: `vision_heads` and `transformer_heads` (width / 64), `activation` (quick_gelu),
            `start_token` and `end_token` (the last two of its vocabulary).
        patch: side in pixels of its CLIP's patches.

    Raises:
        FoveaError: a count that is no whole number above 0, a switch that is neither true nor false, or cameras that
            are no names.
    """

    encoder: str | None = None
    n_obs_steps: int | None = None
    chunk_size: int | None = None
    action_size: int | None = None
    n_heads: int | None = None
    pooling_heads: int | None = None
    word_positions: int | None = None
    pool_true_text: bool | None = None
    action_space: str | None = None
    state_layout: str | None = None
    cameras: Sequence[str] | None = None
    clip: dict[str, Any] = field(default_factory=dict)
    patch: int = 14

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check(name, getattr(self, name), "a whole number above 0", lambda v: _is_count(v) and v > 0)
        for name in ("vision_heads", "transformer_heads", "start_token", "end_token"):
            _check(f"clip's {name}", self.clip.get(name), "a whole number", lambda v: _is_count(v) and v >= 0)
        _check("pool_true_text", self.pool_true_text, "true or false", lambda v: isinstance(v, bool))
        _check("cameras", self.cameras, "a list of names", _are_names)

    def updated(self, **given: Any) -> "OtterFacts":
        """These facts, but for those given (not None); facts of the CLIP are joined.

        Raises:
            FoveaError: there is no such fact.
        """
        known = {f.name for f in fields(self)}
        if unknown := sorted(given.keys() - known):
            raise FoveaError(f"expected facts among {', '.join(sorted(known))}, got {', '.join(unknown)}")
        changes = {name: value for name, value in given.items() if value is not None}
        if "clip" in changes:
            changes["clip"] = self.clip | {k: v for k, v in changes["clip"].items() if v is not None}
        return replace(self, **changes)


@dataclass(frozen=True)
class OtterFile:
    """A checkpoint that was read.

    Args:
        state: weights, without those of CLIP.
        clip: CLIP's weights in OpenAI's layout; empty if the file has none.
        facts: from the file's metadata.
        samples: `in.*` and `out.*`: inputs and what the reference makes of them, where a file carries them.
    """

    state: dict[str, Tensor]
    clip: dict[str, Tensor]
    facts: OtterFacts
    samples: dict[str, Tensor]


def read_otter(path: Path, prefix: str | None = None) -> OtterFile:
    """Read a checkpoint: safetensors or a state dict that torch saved; in a wrapper ("model", "module.") or not.

    Args:
        prefix: of the names of the weights, where the file holds several sets (a policy and its moving average);
            "none" is the set whose names have none.

    Returns:
        weights in the precision that they are stored in.

    Raises:
        FoveaError: no such file, not one of tensors, not OTTER's, several sets, or numbers that are no weights.
    """
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise FoveaError(f"expected OTTER's weights in a file ({', '.join(SUFFIXES)}), got {path}")
    tensors = read_weights(path, as_stored=True)
    samples = {key: tensors.pop(key) for key in sorted(tensors) if key.startswith(("in.", "out."))}
    state = _one_set(tensors, prefix, path)
    for key, value in state.items():
        if not (key.startswith(CLIP) and value.ndim == 0):  # OpenAI's has its sizes among its tensors
            check_weight(key, value, "OTTER's")
    clip = {key.removeprefix(CLIP): state.pop(key) for key in sorted(state) if key.startswith(CLIP)}
    facts = _from_metadata(path)
    if "visual.conv1.weight" in clip:
        facts = facts.updated(patch=clip["visual.conv1.weight"].shape[-1])
    return OtterFile(state, in_single_precision(clip), facts, in_single_precision(samples))


def _one_set(tensors: dict[str, Tensor], prefix: str | None, path: Path) -> dict[str, Tensor]:
    """The weights under one prefix, without it; where none is asked for, there must be one, and nothing beside it."""
    sets = [key.removesuffix(MARK) for key in tensors if key == MARK or key.endswith("." + MARK)]
    if not sets:
        raise FoveaError(f"expected OTTER's weights in {path}, got keys such as {sorted(tensors)[:3]}")
    shown = ", ".join(sorted(found or NO_PREFIX for found in sets))
    chosen = sets[0] if prefix is None else "" if prefix == NO_PREFIX else prefix.rstrip(".") + "."
    if chosen not in sets:
        raise FoveaError(f"prefix: expected one of {shown}, got {prefix}")
    if prefix is None and len(sets) > 1:
        raise FoveaError(
            f"expected one set of OTTER's weights in {path}, got {len(sets)}, whose names begin with {shown}; "
            "say which one with --prefix"
        )
    others = tuple(found for found in sets if found != chosen and found.startswith(chosen))
    mine = {
        key.removeprefix(chosen): value
        for key, value in tensors.items()
        if key.startswith(chosen) and not (others and key.startswith(others))
    }
    if prefix is None and len(mine) < len(tensors):
        rest = sorted(key for key in tensors if not key.startswith(chosen))
        raise FoveaError(
            f"expected weights whose names begin with {chosen} in {path} and no others, got {', '.join(rest[:8])} too; "
            f"if they may be left out, say --prefix {chosen}"
        )
    return mine


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value)


def _check(name: str, value: Any, expected: str, fits: Callable[[Any], bool]) -> None:
    if value is not None and not fits(value):
        raise FoveaError(f"{name}: expected {expected}, got {value!r}")


def _from_metadata(path: Path) -> OtterFacts:
    """What a safetensors file says of itself: entries `model`, `shared`, `clip`, OTTER's own configuration in JSON."""
    if path.suffix != ".safetensors":
        return OtterFacts()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    model, shared, clip = (_entry(metadata, name) for name in ("model", "shared", "clip"))
    try:
        return OtterFacts().updated(
            n_obs_steps=shared.get("seq_length"),
            chunk_size=shared.get("action_horizon"),
            action_size=model.get("action_dim"),
            n_heads=model.get("transformer_heads"),
            pooling_heads=model.get("pooling_heads"),
            word_positions=model.get("first_k_tokens"),
            pool_true_text=model.get("pool_true_text"),
            action_space="env" if shared.get("use_delta_action") is False else None,
            cameras=shared.get("camera_keys"),
            clip={name: clip.get(name) for name in CLIP_FACTS},
        )
    except FoveaError as error:
        raise FoveaError(f"{error} (in the metadata of {path})") from error


def _entry(metadata: dict[str, str], name: str) -> dict[str, Any]:
    """A configuration that the metadata hold as JSON; {} if that entry is something else, such as a model's name.

    Raises:
        FoveaError: it begins like a configuration and is none.
    """
    text = metadata.get(name, "").strip()
    if not text.startswith("{"):
        return {}
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FoveaError(
            f"expected JSON in the metadata entry {name} of OTTER's weights, got {error}"
        ) from error
