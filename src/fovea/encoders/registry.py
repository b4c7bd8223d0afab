"""Encoders by name. A new encoder is one file and one line of `_FACTORIES`."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from fovea.encoders.base import Encoder
from fovea.errors import FoveaError

# family -> "module:function"; the function takes (name, tap=..., **kwargs), the whole name included.
_FACTORIES = {
    "tiny": "fovea.encoders.tiny:create_tiny",  # "tiny" ships with us, "tiny:<folder>" reads other weights
}
_OPEN_CLIP = (
    "fovea.encoders.clip:create_clip"  # every name with a slash: "<model>/<tag>" or "<model>//<file>"
)


def list_encoders() -> list[str]:
    """Return the names `create_encoder` knows, open_clip's "<model>/<tag>" pairs included."""
    import open_clip

    return [*sorted(_FACTORIES), *(f"{model}/{tag}" for model, tag in open_clip.list_pretrained())]


def create_encoder(name: str, *, tap: str | None = None, **kwargs: Any) -> Encoder:
    """Build a frozen encoder (eval mode, no gradients).

    Args:
        name: "tiny", "tiny:<folder of weights>", "<open_clip model>/<tag>" such as "ViT-B-32/openai", or
            "<open_clip model>//<path to a local checkpoint>".
        tap: where patches are read (see `Encoder.tap`); None takes the encoder's own default.
        **kwargs: passed to the encoder's factory.

    Raises:
        FoveaError: the name or the tap is unknown (with the nearest match), or weights are missing.
    """
    family = name.partition(":")[0]
    if family in _FACTORIES:
        target = _FACTORIES[family]
    elif "/" in name:
        target = _OPEN_CLIP
    else:
        raise FoveaError(unknown_name("encoder", name, list_encoders()))
    module, function = target.split(":")
    factory: Callable[..., Encoder] = getattr(importlib.import_module(module), function)
    return factory(name, tap=tap, **kwargs).freeze()


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """Say that a name is unknown and which known ones come nearest."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    return f"unknown {kind} {name!r}; did you mean {' or '.join(repr(n) for n in near)}?"
