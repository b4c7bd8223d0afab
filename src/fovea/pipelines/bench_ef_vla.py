"""EF-VLA beside its published form and LeRobot's ACT: training throughput and control latency, in one run.

All run in this process with the same threads, sizes and batch. The published form has CLIP inside the loop
(`bench_ef_vla_reference`); ours trains from the feature cache and acts with CLIP on torch, and on OpenVINO in
fp32, bfloat16 and int8. Weights are random: speed does not depend on them, and no file is downloaded.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fovea.data.files import atomic_write, human_size
from fovea.errors import FoveaError
from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar

if TYPE_CHECKING:
    from fovea.pipelines.bench_ef_vla_measure import Training


@dataclass
class BenchEFVLAConfig:
    """What is compared, and how often.

    Attributes:
        clip: an open_clip model with a plain vision transformer; its weights are random.
        context: frames of context, two pictures each.
        batch: training windows a step.
        dim_model, n_layers, n_heads: the transformer over time, Table 5 by default.
        train_steps: timed training steps of ours; three go before.
        reference_steps: timed training steps of the published form; each encodes batch x context x 2 pictures.
        rounds: timed control steps of each.
        frames: frames on which int8 is compared with fp32.
        int8: measure OpenVINO too; needs the extra int8.
        act: measure LeRobot's ACT too.
        act_batch: its training samples a step.
        threads: torch and OpenVINO threads; as many as torch uses when not given.
        clock: seconds on the "wall", or seconds of "cpu" time, which other work on the machine does not stretch (with
            one thread).
        out: also write the table to this file.
        json: print the numbers as JSON.
    """

    clip: str = "ViT-B-32"
    context: int = 12
    batch: int = 16
    dim_model: int = 512
    n_layers: int = 4
    n_heads: int = 8
    train_steps: int = 10
    reference_steps: int = 1
    rounds: int = 15
    frames: int = 16
    int8: bool = True
    act: bool = True
    act_batch: int = 8
    threads: int | None = None
    clock: Literal["wall", "cpu"] = "wall"
    out: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        counts = ("context", "batch", "train_steps", "reference_steps", "rounds", "frames", "act_batch")
        for name in counts:
            if getattr(self, name) < 1:
                raise FoveaError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise FoveaError(f"threads: expected at least 1, got {self.threads}")
        if self.int8:
            from fovea.encoders.openvino import require_openvino

            require_openvino("openvino-int8")


def run(config: BenchEFVLAConfig) -> dict[str, Any]:
    """Measure; see `summary` for what comes back.

    Raises:
        FoveaError: no such open_clip model, or one without a plain vision transformer.
    """
    from fovea.threads import torch_threads

    with (
        torch_threads(config.threads),
        progress_bar(visible=not config.json) as bar,
        tempfile.TemporaryDirectory() as cache,
    ):
        job = bar.add_task("comparing", total=6, note="building")
        return _measure(config, Path(cache), lambda note: bar.update(job, advance=1, note=note))


def _measure(config: BenchEFVLAConfig, cache: Path, say: Callable[[str], None]) -> dict[str, Any]:
    import torch

    from fovea.pipelines import bench_ef_vla_measure as measure
    from fovea.pipelines.bench_ef_vla_models import build, compiled, token_rows
    from fovea.pipelines.bench_ef_vla_work import flops, matmul_speed

    clock = measure.CLOCKS[config.clock]
    ours, reference = build(config)
    side = reference.clip.visual.image_size[0]
    work = flops(reference)
    speed = matmul_speed(token_rows(reference), reference.clip.visual.conv1.out_channels, clock)
    say("training from the cache")
    trained = measure.train_ours(ours, config.batch, config.train_steps, 4 * config.context, clock)
    say("training, as published")
    published = measure.train_reference(reference, config.batch, config.reference_steps, clock)
    say("compiling")
    copies = {"fovea": ours.eval()}
    if config.int8:
        copies |= compiled(ours, cache, side)
    say("acting")
    steps = measure.control(copies, reference, config.rounds, side, clock)
    say("comparing actions")
    int8 = measure.deviation(ours, copies["int8"], config.frames, side) if config.int8 else None
    say("ACT")
    act = measure.act(side, config.act_batch, config.rounds, clock) if config.act else None
    sizes = {
        "fovea": sum(parameter.numel() for parameter in ours.parameters()),
        "reference": sum(parameter.numel() for parameter in reference.trained()),
        "threads": torch.get_num_threads(),
    }
    return summary(config, sizes, work, speed, trained, published, steps, int8, act)


def summary(
    config: BenchEFVLAConfig,
    sizes: Mapping[str, int],
    work: Mapping[str, float],
    speed: Mapping[str, float],
    trained: Training,
    published: Training,
    steps: Mapping[str, list[float]],
    int8: Mapping[str, float] | None,
    act: Mapping[str, float] | None,
) -> dict[str, Any]:
    """The figures.

    Returns:
        `training`: `ratio`, `windows_per_second.{fovea,reference}`, `encoded_pictures_per_second`, `cache_bytes`.
        `control`: `ratio` (fp32 on torch; medians of each round's ratio), `ratio_words_kept`, `ms` and `hz` of every
        variant.
        `int8`: `action_deviation`, `pointing_agreement` and more (see `bench_ef_vla_measure.deviation`). `act`.
        `gflops`: of the parts of a control step, `per_second` of this machine, and `limit_ms`, what the pictures
        alone cost at that speed; `parameters` that train; `run`, `versions`.
    """
    ms = {name: _median(values) for name, values in steps.items()}

    def ratio(other: str) -> float:
        rounds = zip(steps[other], steps["fovea"], strict=True)
        return _median([theirs / max(mine, 1e-9) for theirs, mine in rounds])

    windows = {
        name: config.batch / one.seconds for name, one in (("fovea", trained), ("reference", published))
    }
    result: dict[str, Any] = {
        "training": {
            "ratio": round(windows["fovea"] / windows["reference"], 1),
            "windows_per_second": {name: round(value, 3) for name, value in windows.items()},
            "encoded_pictures_per_second": round(trained.encoded_per_second, 2),
            "cache_bytes": trained.cache_bytes,
        },
        "control": {
            "ratio": ratio("reference"),
            "ratio_words_kept": ratio("reference_words_kept"),
            "ms": ms,
            "hz": {name: round(1e3 / max(value, 1e-9), 2) for name, value in ms.items()},
        },
    }
    if int8 is not None:
        result["int8"] = {name: round(value, 5) for name, value in int8.items()}
    if act is not None:
        result["act"] = {name: round(value, 3) for name, value in act.items()}
    result["gflops"] = {
        **{name: round(value, 4) for name, value in work.items()},
        "per_second": {name: round(value, 1) for name, value in speed.items()},
        "limit_ms": {name: round(1e3 * work["pictures"] / value, 2) for name, value in speed.items()},
    }
    flags = {name: value for name, value in asdict(config).items() if name not in ("out", "json")}
    return result | {
        "parameters": {name: sizes[name] for name in ("fovea", "reference")},
        "run": {**flags, "threads": sizes["threads"]},
        "versions": _versions(("torch", "open_clip_torch", "lerobot", "openvino", "nncf")),
    }


def table(result: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    training, control, gflops = result["training"], result["control"], result["gflops"]
    windows, ms, hz = training["windows_per_second"], control["ms"], control["hz"]
    run_, act = result["run"], result.get("act")
    per_frame = run_["context"]
    lines = [
        "| training | windows / s | frames / s |",
        "|---|---|---|",
        f"| Fovea, from the feature cache | {windows['fovea']:.1f} | {windows['fovea'] * per_frame:.0f} |",
        f"| as published, CLIP in the loop | {windows['reference']:.2f} | {windows['reference'] * per_frame:.1f} |",
    ]
    if act:
        samples = act["samples_per_second"]
        lines.append(f"| LeRobot's ACT, {act['parameters'] / 1e6:.1f} M | - | {samples:.1f} |")
    lines += ["", f"Training ratio: **{training['ratio']:.0f} x**. The cache is written once, at "]
    lines[-1] += f"{training['encoded_pictures_per_second']:.1f} pictures a second."
    lines += ["", "| a control step: two pictures in, one chunk out | ms | Hz |", "|---|---|---|"]
    for name, label in _CONTROL.items():
        if name in ms:
            lines.append(f"| {label} | {ms[name]:.1f} | {hz[name]:.1f} |")
    if act:
        lines.append(f"| LeRobot's ACT | {act['control_ms']:.1f} | {1e3 / act['control_ms']:.1f} |")
    speed, limit = gflops["per_second"], gflops["limit_ms"]
    lines += [
        "",
        f"Control ratio in fp32: **{control['ratio']:.1f} x** ({control['ratio_words_kept']:.1f} x if the published "
        f"form kept the words too). Two pictures cost {gflops['pictures']:.1f} GFLOP, the words "
        f"{gflops['words']:.1f}, the policy {gflops['policy']:.2f}. The tower's largest product runs at "
        f"{speed['onednn']:.0f} GFLOP/s through oneDNN and {speed['torch']:.0f} as torch does it: at that speed the "
        f"pictures alone take {limit['onednn']:.0f} and {limit['torch']:.0f} ms.",
    ]
    if int8 := result.get("int8"):
        lines += [
            "",
            "With random CLIP weights patches hardly differ, so that the arg-max is a matter of chance: `fovea "
            "compile` compares the weights that you use.",
            "",
            f"int8 against fp32: mean difference of actions {int8['action_deviation']:.4f} "
            f"({int8['action_deviation_share']:.1%} of their spread), the same arg-max patch for "
            f"{int8['pointing_agreement']:.1%} of the words, cosine of patches {int8['feature_cosine']:.4f}.",
        ]
    return "\n".join(lines) + "\n"


_CONTROL = {
    "reference": "as published",
    "reference_words_kept": "as published, words kept",
    "fovea": "Fovea, fp32",
    "openvino_fp32": "Fovea, fp32 on OpenVINO",
    "openvino_bf16": "Fovea, bfloat16 on OpenVINO",
    "int8": "Fovea, int8 on OpenVINO",
}


def write(result: Mapping[str, Any], path: Path) -> None:
    """The table as a file, with the command that makes it."""
    run_ = result["run"]
    flags = " ".join(
        f"--{key} {str(value).lower() if value in (True, False) else value}" for key, value in run_.items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    own, published = (result["parameters"][name] for name in ("fovea", "reference"))
    cache = human_size(result["training"]["cache_bytes"])
    text = (
        f"# EF-VLA: speed\n\n`fovea bench ef-vla {flags}` (commit {current_commit()}; {versions}). {run_['clip']} with "
        f"random weights, windows of {run_['context']} frames x 2 cameras, batch {run_['batch']}, {run_['threads']} "
        f"threads, medians of {run_['clock']} time; ours trains {own / 1e6:.1f} M parameters, the published form "
        f"{published / 1e6:.1f} M; the memory-mapped cache held {cache}.\n\n"
        f"{table(result)}"
    )
    with atomic_write(path) as file:
        file.write(text.encode())


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def _median(values: list[float]) -> float:
    return round(float(np.median(values)), 2)
