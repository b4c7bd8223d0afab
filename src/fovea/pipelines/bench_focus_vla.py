"""FocusVLA's policy beside VLA-Adapter-Pro's as it was published: a pass forward and back at full size.

States of the VLM are random; speed does not depend on them. What a pass keeps for its backward is counted too: it is
what decides which batch fits.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fovea.data.files import atomic_write
from fovea.errors import FoveaError
from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor, nn

REFERENCE = "VLA-Adapter-Pro as published"
OURS: dict[str, dict[str, Any]] = {  # name -> type and changes
    "VLA-Adapter-Pro": {"type": "vla_adapter", "variant": "pro"},
    "FocusVLA, K = half, every query its own": {"type": "focus_vla", "top_k_scope": "query"},
    "FocusVLA, K = half, one set for all": {"type": "focus_vla", "top_k_scope": "shared"},
    "FocusVLA, all tokens": {"type": "focus_vla", "top_k": None},
}
FOCUS = "FocusVLA, K = half, every query its own"


@dataclass
class BenchFocusVLAConfig:
    """What is compared, and how often.

    Attributes:
        batches: frames a pass.
        layers, width, heads: of the policy; the papers' by default.
        tokens: vision tokens of both cameras; FocusVLA keeps half.
        feature_width: of the raw vision features.
        rounds: timed passes of each; one goes before.
        threads: torch threads; as many as torch uses when not given.
        clock: seconds on the "wall", or seconds of "cpu" time, which other work on the machine does not stretch (with
            one thread).
        out: also write the table to this file.
        json: print the numbers as JSON.
    """

    batches: list[int] = field(default_factory=lambda: [2, 8])
    layers: int = 24
    width: int = 896
    heads: int = 8
    tokens: int = 512
    feature_width: int = 2176
    rounds: int = 5
    threads: int | None = None
    clock: Literal["wall", "cpu"] = "wall"
    out: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "tokens", "feature_width", "rounds"):
            if getattr(self, name) < 1:
                raise FoveaError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.batches or min(self.batches) < 1:
            raise FoveaError(f"batches: expected numbers of at least 1, such as 2,8, got {self.batches}")
        if self.tokens % 2:
            raise FoveaError(f"tokens: expected as many of each of two cameras, got {self.tokens}")
        if self.threads is not None and self.threads < 1:
            raise FoveaError(f"threads: expected at least 1, got {self.threads}")


def run(config: BenchFocusVLAConfig) -> dict[str, Any]:
    """Measure; see `summary` for what comes back."""
    from fovea.threads import torch_threads

    with torch_threads(config.threads):
        return _run(config)


def _run(config: BenchFocusVLAConfig) -> dict[str, Any]:
    import torch

    seconds: dict[int, dict[str, list[float]]] = {batch: {} for batch in config.batches}
    kept: dict[int, dict[str, int]] = {batch: {} for batch in config.batches}
    sizes: dict[str, int] = {}
    names = [REFERENCE, *OURS]
    with progress_bar(visible=not config.json) as bar:
        job = bar.add_task("comparing", total=len(names) * len(config.batches), note="")
        models = {name: _build(config, name) for name in names}
        for batch in config.batches:
            inputs = _inputs(config, batch)
            for name, (model, call) in models.items():
                bar.update(job, note=f"{name}, batch {batch}")
                sizes[name] = sum(p.numel() for p in model.parameters())
                seconds[batch][name] = []
                kept[batch][name] = _kept_bytes(model, call, inputs)
                bar.advance(job)
            for _ in range(config.rounds):  # in turn, so that all see the same machine
                for name, (model, call) in models.items():
                    seconds[batch][name].append(_seconds(model, call, inputs, config.clock))
    return summary(config, sizes, seconds, kept, torch.get_num_threads())


def _build(config: BenchFocusVLAConfig, name: str) -> tuple[nn.Module, Callable[..., Tensor]]:
    import torch

    from fovea.pipelines.bench_focus_vla_reference import PublishedPolicy
    from fovea.pipelines.policies import config_class
    from fovea.policies.vlm_policy.network import ChunkNetwork, VLMFacts
    from fovea.vlm.config import VLMConfig
    from fovea.vlm.states import VLMStates

    torch.manual_seed(0)
    if name == REFERENCE:
        published = PublishedPolicy(config.width, config.heads, config.layers)
        return published, lambda x: published(x["vision"], x["queries"], x["proprio"])
    changes = dict(OURS[name])
    policy_class: Any = config_class(changes.pop("type"))
    if "top_k" not in changes and policy_class.__name__.startswith("Focus"):
        changes["top_k"] = config.tokens // 2
    vlm = VLMConfig.preset("full", feature_width=config.feature_width)
    policy = policy_class.preset(
        "full",
        device="cpu",
        vlm=vlm,
        states_from="batch",
        dim_model=config.width,
        n_heads=config.heads,
        **changes,
    )
    network = ChunkNetwork(policy, VLMFacts(config.layers, config.width, config.feature_width))

    def call(x: dict[str, Tensor]) -> Tensor:
        return network(VLMStates(x["vision"], x["queries"], x["features"]), x["proprio"])

    return network, call


def _inputs(config: BenchFocusVLAConfig, batch: int) -> dict[str, Tensor]:
    import torch

    torch.manual_seed(1)
    return {
        "vision": torch.randn(config.layers, batch, config.tokens, config.width),
        "queries": torch.randn(config.layers, batch, 64, config.width),
        "features": torch.randn(batch, config.tokens, config.feature_width),
        "proprio": torch.randn(batch, 8),
    }


def _seconds(model: nn.Module, call: Callable[..., Tensor], inputs: dict[str, Tensor], clock: str) -> float:
    read = time.process_time if clock == "cpu" else time.perf_counter
    model.zero_grad(set_to_none=True)
    gc.collect()
    began = read()
    call(inputs).abs().mean().backward()
    return read() - began


def _kept_bytes(model: nn.Module, call: Callable[..., Tensor], inputs: dict[str, Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward, weights and inputs left out; warms up as well."""
    from torch.autograd.graph import saved_tensors_hooks

    given = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *inputs.values())}
    storages: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in given:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(x)  # or its memory would be another's, and counted once
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        loss = call(inputs).abs().mean()
    loss.backward()
    model.zero_grad(set_to_none=True)
    return sum(storages.values())


def summary(
    config: BenchFocusVLAConfig,
    sizes: Mapping[str, int],
    seconds: Mapping[int, Mapping[str, list[float]]],
    kept: Mapping[int, Mapping[str, int]],
    threads: int,
) -> dict[str, Any]:
    """The figures.

    Returns:
        `batch_<b>`: for every policy `ms`, `ratio` (its time over the published one's, median of the rounds' ratios)
        and `kept_mb`; `ratio.batch_<b>`: that of FocusVLA with K; `parameters`; `run`.
    """
    result: dict[str, Any] = {}
    for batch in config.batches:
        published = seconds[batch][REFERENCE]
        result[f"batch_{batch}"] = {
            name: {
                "ms": round(1e3 * float(np.median(times)), 1),
                "ratio": round(float(np.median(np.array(times) / np.maximum(published, 1e-9))), 3),
                "kept_mb": round(kept[batch][name] / 1e6, 1),
            }
            for name, times in seconds[batch].items()
        }
    flags = {name: value for name, value in asdict(config).items() if name not in ("out", "json")}
    return result | {
        "ratio": {f"batch_{batch}": result[f"batch_{batch}"][FOCUS]["ratio"] for batch in config.batches},
        "parameters": dict(sizes),
        "run": {**flags, "threads": threads},
    }


def table(result: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    batches = result["run"]["batches"]
    lines = [
        "| forward and backward | parameters | "
        + " | ".join(f"batch {b}: ms | times the published | kept for backward" for b in batches)
        + " |",
        "|---|---|" + "---|---|---|" * len(batches),
    ]
    for name, count in result["parameters"].items():
        cells = [result[f"batch_{batch}"][name] for batch in batches]
        shown = " | ".join(f"{c['ms']:.0f} | {c['ratio']:.2f} | {c['kept_mb']:.0f} MB" for c in cells)
        lines.append(f"| {name} | {count / 1e6:.1f} M | {shown} |")
    return "\n".join(lines) + "\n"


def write(result: Mapping[str, Any], path: Path) -> None:
    """The table as a file, with the command that makes it."""
    run_ = dict(result["run"])
    run_["batches"] = ",".join(map(str, run_["batches"]))
    flags = " ".join(f"--{key} {value}" for key, value in run_.items())
    text = (
        f"# FocusVLA: speed of the policy\n\n`fovea bench focus-vla {flags}` (commit {current_commit()}): "
        f"{run_['layers']} layers of width {run_['width']}, {run_['tokens']} vision tokens, fp32, {run_['threads']} "
        f"threads, medians of {run_['clock']} time. Parameters: with the projector of proprioception and "
        f"the queries of a chunk, without the layers of the release that nothing reads.\n\n{table(result)}"
    )
    with atomic_write(path) as file:
        file.write(text.encode())
