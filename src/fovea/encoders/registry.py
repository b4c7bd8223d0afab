"""Encoders by name. A new encoder is one file and one line of `_FACTORIES`."""

import difflib
import importlib
import re
from collections.abc import Callable
from typing import Any

from fovea.encoders.base import Encoder, VisionEncoder
from fovea.errors import FoveaError

# family -> "module:function"; the function takes (name, tap=..., **kwargs), the whole name included.
_FACTORIES = {
    "tiny": "fovea.encoders.tiny:create_tiny",  # "tiny" ships with us, "tiny:<folder>" reads other weights
    "clip": "fovea.encoders.clip_openai:create_openai_clip",  # "clip:<file>": OpenAI's layout, sizes from the tensors
}
# every name with a slash: "<model>/<tag>" or "<model>//<file>"
_OPEN_CLIP = "fovea.encoders.clip:create_clip"
# encoders that see and do not read: no words, so no early fusion
_VISION_FACTORIES: dict[str, str] = {
    "dinov2": "fovea.encoders.dinov2:create_dinov2",  # "dinov2@<size>", "dinov2//<file>"; siglip and timm likewise
    "siglip": "fovea.encoders.siglip:create_siglip",
    "timm": "fovea.encoders.vit:create_timm",  # "timm/<model>": every plain vision transformer of timm
    "efficientnet_lite0": "fovea.encoders.efficientnet:create_efficientnet",
    "random": "fovea.encoders.random_weights:create_random",  # "random/<any name>"
}
_BUILT_WITHOUT_WEIGHTS = {"dinov2", "siglip", "timm"}
_FUSED = "fovea.encoders.fused:create_fused"  # "<name>+<name>": patches joined on channels
_PLUS = re.compile(rf"\+(?=(?:{'|'.join(_VISION_FACTORIES)})(?:[/@+]|$))")


def list_encoders() -> list[str]:
    """Return the names `create_encoder` knows, open_clip's "<model>/<tag>" pairs included."""
    import open_clip

    return [*sorted(_FACTORIES), *(f"{model}/{tag}" for model, tag in open_clip.list_pretrained())]


def list_vision_encoders() -> list[str]:
    """Return the names `create_vision_encoder` knows: those that see only, timm's ViTs, then the dual encoders."""
    import timm

    own = [family for family in _VISION_FACTORIES if family != "timm"]
    return [
        *own,
        "dinov2+siglip",
        *(f"timm/{name}" for name in timm.list_pretrained("vit_*")),
        *list_encoders(),
    ]


def create_encoder(name: str, *, tap: str | None = None, **kwargs: Any) -> Encoder:
    """Build a frozen dual encoder, of pictures and words (eval mode, no gradients).

    Args:
        name: "tiny", "tiny:<folder of weights>", "<open_clip model>/<tag>" such as "ViT-B-32/openai",
            "<open_clip model>//<path to a local checkpoint or its folder>", or "clip:<file>" for a CLIP in
            OpenAI's layout whose sizes are read from its tensors.
        tap: where patches are read (see `Encoder.tap`); None takes the encoder's own default.
        **kwargs: passed to the encoder's factory.

    Raises:
        FoveaError: the name or the tap is unknown (with the nearest match), weights are missing, or the encoder
            knows no words.
    """
    if _vision_factory(name) is not None:
        raise FoveaError(
            f"expected an encoder of pictures and words, got {name}, which only sees; "
            "take one such as tiny or ViT-B-32/openai"
        )
    return _dual_factory(name)(name, tap=tap, **kwargs).freeze()


def create_vision_encoder(
    name: str, *, tap: str | None = None, random_weights: bool = False, **kwargs: Any
) -> VisionEncoder:
    """Build a frozen encoder of pictures (eval mode, no gradients); dual encoders are encoders of pictures too.

    Args:
        name: "dinov2", "siglip", "timm/<model>", each with "@<size in pixels>" and "//<file.safetensors>" behind it
            if wanted; several of them joined by +, such as "dinov2+siglip"; or what `create_encoder` takes.
        tap: where patches are read (see `VisionEncoder.tap`); None takes the encoder's own default.
        random_weights: on purpose, a network that learned nothing; timm's need no weights then.
        **kwargs: passed to the encoder's factory.

    Raises:
        FoveaError: the name or the tap is unknown (with the nearest match), or weights are missing.
    """
    if random_weights:
        if built_without_weights(name):
            kwargs["random_weights"] = True
        else:
            name = f"random/{name}"
    factory: Callable[..., VisionEncoder] = _vision_factory(name) or _dual_factory(name)
    return factory(name, tap=tap, **kwargs).freeze()


def built_without_weights(name: str) -> bool:
    """Whether a network can be made before its weights are there, so that random ones need no download."""
    return {_family(part) for part in split_parts(name)} <= _BUILT_WITHOUT_WEIGHTS


def split_parts(name: str) -> list[str]:
    """ "dinov2+siglip" -> its parts; a plus that no encoder's name follows (in a file's path) joins nothing."""
    return [name] if name.startswith("random/") else _PLUS.split(name)


def _vision_factory(name: str) -> Callable[..., VisionEncoder] | None:
    """The factory of an encoder that only sees, by the first part of its name ("dinov2" of "dinov2//<file>")."""
    if len(split_parts(name)) > 1:
        return _load(_FUSED)
    target = _VISION_FACTORIES.get(_family(name))
    return _load(target) if target else None


def _family(name: str) -> str:
    return re.split("[/@]", name, maxsplit=1)[0]


def _dual_factory(name: str) -> Callable[..., Encoder]:
    family = name.partition(":")[0]
    if family in _FACTORIES:
        return _load(_FACTORIES[family])
    if "/" in name:
        return _load(_OPEN_CLIP)
    raise FoveaError(unknown_name("encoder", name, list_vision_encoders()))


def _load(target: str) -> Callable[..., Any]:
    module, function = target.split(":")
    return getattr(importlib.import_module(module), function)


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """Say that a name is unknown and which known ones come nearest."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    return f"unknown {kind} {name!r}; did you mean {' or '.join(repr(n) for n in near)}?"
