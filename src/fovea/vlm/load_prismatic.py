"""Public checkpoints of Prismatic, OpenVLA-OFT and VLA-Adapter: their names, and ours.

Two layouts. Prismatic (github.com/TRI-ML/prismatic-vlms): a .pt file whose "model" holds the groups `vision_backbone`
(often absent: it was frozen), `projector` and `llm_backbone`. Hugging Face (OpenVLA-OFT, VLA-Adapter): safetensors with
`vision_backbone.*`, `projector.*`, `language_model.*` and, in VLA-Adapter, `action_queries.weight`; there LayerScale's
`gamma` is called `scale_factor`, because Hugging Face renames whatever is called gamma.

A group is there completely or not at all; groups that are absent keep the weights the model already has.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fovea.encoders.files import load_tensors
from fovea.errors import FoveaError

Layout = Literal["prismatic", "hf"]

# Our prefix -> theirs. Parts 0 and 1 of the fused encoder are DINOv2 and SigLIP.
_PREFIXES: dict[str, dict[str, str]] = {
    "prismatic": {
        "vision_encoder.parts.0.model.": "vision_backbone.dino_featurizer.",
        "vision_encoder.parts.1.model.": "vision_backbone.siglip_featurizer.",
        "projector.fc1.": "projector.projector.0.",
        "projector.fc2.": "projector.projector.2.",
        "projector.fc3.": "projector.projector.4.",
        "language_model.": "llm_backbone.llm.",
    },
    "hf": {
        "vision_encoder.parts.0.model.": "vision_backbone.featurizer.",
        "vision_encoder.parts.1.model.": "vision_backbone.fused_featurizer.",
        "projector.": "projector.",
        "language_model.": "language_model.",
        "action_queries": "action_queries.weight",
    },
}
WHERE = (
    "checkpoints/latest-checkpoint.pt of huggingface.co/Stanford-ILIAD/prism-qwen25-extra-dinosiglip-224px-0_5b (the "
    "VLM that VLA-Adapter starts from) or model.safetensors of huggingface.co/VLA-Adapter/LIBERO-Object-Pro (finetuned)"
)
VISION = "vision_encoder"
GROUPS = (VISION, "projector", "language_model", "action_queries")
REQUIRED = ("projector", "language_model")
_TIED = "language_model.lm_head.weight"
_PRISMATIC_FILE = Path("checkpoints/latest-checkpoint.pt")
_HF_FILE, _HF_INDEX = "model.safetensors", "model.safetensors.index.json"


def public_names(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Our names -> those of a layout; the groups of a Prismatic file become prefixes ("projector.projector.0.weight").

    Raises:
        FoveaError: a name has no counterpart (adapters must be merged first, see `fovea.vlm.lora.merge_lora`).
    """
    return {_rename(key, _PREFIXES[layout], layout, ours=True): value for key, value in state.items()}


def our_names(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Names of a layout -> ours.

    Raises:
        FoveaError: a name that is no part of the layout.
    """
    prefixes = {theirs: ours for ours, theirs in _PREFIXES[layout].items()}
    unknown = [key for key in state if not key.startswith(tuple(prefixes))]
    if unknown:
        raise FoveaError(
            f"expected names that start with {', '.join(prefixes)}, got {listed(unknown)} as well; "
            f"is this a checkpoint of layout {layout}?"
        )
    return {_rename(key, prefixes, layout, ours=False): value for key, value in state.items()}


def read_checkpoint(source: str | Path) -> dict[str, Tensor]:
    """Read a public checkpoint under our names.

    Args:
        source: a Prismatic .pt file or its run folder (checkpoints/latest-checkpoint.pt), or a .safetensors file or
            a folder with model.safetensors (in one piece or with an index).

    Raises:
        FoveaError: nothing there, another layout, or a pickle that holds more than tensors.
    """
    path = Path(source)
    if path.is_dir():
        candidates = [path / _HF_FILE, path / _HF_INDEX, path / _PRISMATIC_FILE]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise FoveaError(
                f"expected {_HF_FILE}, {_HF_INDEX} or {_PRISMATIC_FILE} in {path}, found none of them"
            )
        path = found
    if not path.is_file():
        raise FoveaError(
            f"expected a Prismatic, OpenVLA-OFT or VLA-Adapter checkpoint, found none at {path}; for instance {WHERE}"
        )
    if path.name.endswith(".index.json"):
        return our_names(_read_shards(path), "hf")
    if path.suffix == ".safetensors":
        return our_names(read_safetensors(path), "hf")
    return our_names(_read_prismatic(path), "prismatic")


def load_checkpoint(
    model: nn.Module, state: Mapping[str, Tensor], source: str, required: Sequence[str] = REQUIRED
) -> list[str]:
    """Load a state dict under our names into a VLM, strictly, whole groups only.

    Args:
        model: a `PrismaticVLM`, before adapters are put on it.
        state: from `read_checkpoint`.
        source: where it came from, for messages.
        required: groups that must be there.

    Returns:
        The groups that were loaded.

    Raises:
        FoveaError: keys are missing or unexpected, or shapes differ; all of them are listed.
    """
    own = model.state_dict()
    groups = [group for group in GROUPS if any(group_of(key) == group for key in state)]
    absent = [group for group in required if group not in groups]
    if absent:
        raise FoveaError(
            f"expected the groups {' and '.join(required)} in {source}, it lacks {', '.join(absent)}"
        )
    embedding = "language_model.model.embed_tokens.weight"
    state = dict(state)
    if _TIED in own and embedding in state:
        state.setdefault(
            _TIED, state[embedding]
        )  # the head shares the embedding's weights; saving drops one of them
    wanted = {key for key in own if group_of(key) in groups}
    report = []
    if missing := sorted(wanted - set(state)):
        report.append(f"{len(missing)} missing: {listed(missing)}")
    if unexpected := sorted(set(state) - wanted):
        report.append(f"{len(unexpected)} unexpected: {listed(unexpected)}")
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in sorted(wanted & set(state))
        if state[key].shape != own[key].shape
    ]
    if shapes:
        report.append(f"{len(shapes)} of another shape: {listed(shapes)}")
    if report:
        raise FoveaError(
            f"{source} does not fit this vlm: {'; '.join(report)}. Set the vlm's sizes to its own"
        )
    model.load_state_dict(state, strict=False)
    return groups


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or the file named as the culprit."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise FoveaError(f"{path} is no safetensors file: {error}") from error


def group_of(key: str) -> str:
    """The part of the model that a key of ours belongs to."""
    return key.partition(".")[0]


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first few of many names."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _rename(key: str, prefixes: Mapping[str, str], layout: Layout, ours: bool) -> str:
    prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
    if prefix is None or "lora_" in key or ".base_layer." in key:
        raise FoveaError(f"{key} has no name in the layout {layout}; merge adapters before exporting")
    name = prefixes[prefix] + key.removeprefix(prefix)
    if layout == "hf" and "vision" in prefix:
        old, new = ("gamma", "scale_factor") if ours else ("scale_factor", "gamma")
        name = re.sub(rf"\.{old}$", f".{new}", name)
    return name


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        record = json.loads(index.read_text())
    except ValueError as error:
        raise FoveaError(f"{index} is truncated or damaged ({error}); restore it") from error
    named = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise FoveaError(f"expected a weight_map of names and files in {index}, found none")
    files = sorted(set(named.values()))
    state: dict[str, Tensor] = {}
    for file in files:
        if not (index.parent / file).is_file():
            raise FoveaError(f"expected {file} beside {index}, found none; the checkpoint is not complete")
        state.update(read_safetensors(index.parent / file))
    return state


def _read_prismatic(path: Path) -> dict[str, Tensor]:
    """Groups of a .pt file as prefixes."""
    record = load_tensors(path)
    model = record.get("model") if isinstance(record, dict) else None
    if not isinstance(model, dict) or not all(isinstance(group, dict) for group in model.values()):
        raise FoveaError(
            f'expected "model" with the groups vision_backbone, projector and llm_backbone in {path}, '
            f"got {sorted(record) if isinstance(record, dict) else type(record).__name__}"
        )
    return {f"{group}.{key}": value for group, tensors in model.items() for key, value in tensors.items()}
