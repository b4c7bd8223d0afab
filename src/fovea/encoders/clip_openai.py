"""A CLIP from its tensors alone, in OpenAI's layout: "clip:<file>".

Sizes are read from the shapes; what shapes do not tell (heads, activation) from the file's metadata, entry `clip`,
else as OpenAI built theirs: heads of width 64, QuickGELU. OTTER's checkpoints carry their CLIP this way.

Shape letters: N patches.
"""

import json
import math
from pathlib import Path
from typing import Any

import open_clip
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fovea.encoders.clip import ClipEncoder
from fovea.encoders.clip_text import own_tokenizer
from fovea.encoders.files import read_weights
from fovea.errors import FoveaError

HEAD_WIDTH = 64
ARCHIVE_SIZES = (
    "input_resolution",
    "context_length",
    "vocab_size",
)  # numbers beside the weights in OpenAI's archives


def create_openai_clip(name: str, *, tap: str | None = None) -> ClipEncoder:
    """Build "clip:<file>".

    Raises:
        FoveaError: no such file, or its tensors are not those of a CLIP with a vision transformer.
    """
    path = Path(name.partition(":")[2])
    if not path.is_file():
        raise FoveaError(
            f"expected the weights of a CLIP at {str(path)!r}, found none; write clip:<file>, a file in OpenAI's layout"
        )
    return openai_clip(read_weights(path), name=name, tap=tap, facts=read_facts(path))


def read_facts(path: Path) -> dict[str, Any]:
    """The metadata entry `clip` of a safetensors file; empty where there is none."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("clip", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise FoveaError(f"expected JSON in the metadata entry clip of {path}, got {error}") from error
    return facts if isinstance(facts, dict) else {}


def openai_clip(
    state: dict[str, Tensor], *, name: str, tap: str | None = None, facts: dict[str, Any] | None = None
) -> ClipEncoder:
    """Build a CLIP from a state dict in OpenAI's layout.

    Args:
        state: `visual.conv1.weight`, `transformer.resblocks.0...`, ...
        facts: `vision_heads`, `transformer_heads`, `activation` ("quick_gelu" or "gelu"), and the token ids
            `start_token` and `end_token` where known.

    Raises:
        FoveaError: the tensors are not those of a CLIP with a vision transformer.
    """
    facts = facts or {}
    state = {key: value for key, value in state.items() if key not in ARCHIVE_SIZES}
    for key in (
        "visual.conv1.weight",
        "visual.positional_embedding",
        "visual.transformer.resblocks.0.mlp.c_fc.weight",
        "transformer.resblocks.0.mlp.c_fc.weight",
        "token_embedding.weight",
        "positional_embedding",
        "ln_final.weight",
        "text_projection",
    ):
        if key not in state:
            raise FoveaError(
                f"expected a CLIP with a vision transformer in OpenAI's layout, {key} is missing from {name}"
            )
    width, _, _, patch = state["visual.conv1.weight"].shape
    patches = state["visual.positional_embedding"].shape[0] - 1
    side = math.isqrt(patches)
    if side * side != patches:
        raise FoveaError(f"expected a square grid of patches in {name}, got {patches} patches")
    text_width = state["ln_final.weight"].shape[0]
    vision_heads = facts.get("vision_heads") or max(1, width // HEAD_WIDTH)
    text_heads = facts.get("transformer_heads") or max(1, text_width // HEAD_WIDTH)
    for what, heads, size in (
        ("vision_heads", vision_heads, width),
        ("transformer_heads", text_heads, text_width),
    ):
        if not isinstance(heads, int) or heads < 1 or size % heads:
            raise FoveaError(f"expected {what} that divide the width {size} of {name}, got {heads!r}")
    vision = {
        "image_size": side * patch,
        "patch_size": patch,
        "width": width,
        "layers": _blocks(state, "visual.transformer.resblocks"),
        "head_width": width // vision_heads,
        "mlp_ratio": _mlp_ratio(state, "visual.transformer.resblocks", width),
        "no_ln_pre": "visual.ln_pre.weight" not in state,
    }
    length, vocabulary = state["positional_embedding"].shape[0], state["token_embedding.weight"].shape[0]
    text = {
        "context_length": length,
        "vocab_size": vocabulary,
        "width": text_width,
        "heads": text_heads,
        "layers": _blocks(state, "transformer.resblocks"),
        "mlp_ratio": _mlp_ratio(state, "transformer.resblocks", text_width),
    }
    model = open_clip.CLIP(
        state["text_projection"].shape[1],
        vision,
        text,
        quick_gelu=facts.get("activation", "quick_gelu") == "quick_gelu",
    )
    if "visual.proj" not in state:
        model.visual.proj = None
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise FoveaError(f"{name} does not hold the weights of a CLIP: {error}") from error
    tokenizer = own_tokenizer(vocabulary, length, facts.get("start_token"), facts.get("end_token"))
    return ClipEncoder(model, name=name, tap=tap or "attn_qk", tokenizer=tokenizer)


def _blocks(state: dict[str, Tensor], prefix: str) -> int:
    return len(
        {key.removeprefix(prefix + ".").split(".")[0] for key in state if key.startswith(prefix + ".")}
    )


def _mlp_ratio(state: dict[str, Tensor], prefix: str, width: int) -> float:
    hidden = state[f"{prefix}.0.mlp.c_fc.weight"].shape[0]
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
