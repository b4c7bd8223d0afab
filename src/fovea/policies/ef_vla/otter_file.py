"""An OTTER checkpoint as a file: its tensors, and what tensors cannot tell."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from fovea.encoders.files import SUFFIXES, read_weights
from fovea.errors import FoveaError

CLIP = "clip_model."
CLIP_FACTS = ("vision_heads", "transformer_heads", "activation", "start_token", "end_token")
MARK = "input_projection.weight"  # every OTTER has it


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


def read_otter(path: Path) -> OtterFile:
    """Read a checkpoint: safetensors or a state dict that torch saved; in a wrapper ("model", "module.") or not.

    Raises:
        FoveaError: no such file, not one of tensors, or not OTTER's.
    """
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise FoveaError(f"expected OTTER's weights in a file ({', '.join(SUFFIXES)}), got {path}")
    tensors = read_weights(path)
    marks = [key for key in tensors if key == MARK or key.endswith("." + MARK)]
    if not marks:
        raise FoveaError(f"expected OTTER's weights in {path}, got keys such as {sorted(tensors)[:3]}")
    prefix = marks[0].removesuffix(MARK)
    samples = {key: value for key, value in tensors.items() if key.startswith(("in.", "out."))}
    state = {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and key not in samples
    }
    clip = {key.removeprefix(CLIP): state.pop(key) for key in sorted(state) if key.startswith(CLIP)}
    facts = _from_metadata(path)
    if "visual.conv1.weight" in clip:
        facts = facts.updated(patch=clip["visual.conv1.weight"].shape[-1])
    return OtterFile(state, clip, facts, samples)


def _from_metadata(path: Path) -> OtterFacts:
    """What a safetensors file says of itself: entries `model`, `shared`, `clip`, OTTER's own configuration in JSON."""
    if path.suffix != ".safetensors":
        return OtterFacts()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    model, shared, clip = (_entry(metadata, name) for name in ("model", "shared", "clip"))
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
