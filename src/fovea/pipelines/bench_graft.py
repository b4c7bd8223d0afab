"""What computing tokens once saves a grafting study: encoding in every run beside encoding once, in one process.

Both ways do the same work up to the projector: every run needs the tokens of its batches and of the held-out samples.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fovea.data.files import atomic_write
from fovea.errors import FoveaError
from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar


@dataclass
class BenchGraftConfig:
    """What is compared.

    Attributes:
        dataset: a data set, as `fovea collect` writes it.
        encoders: candidates.
        backbones: how many share the tokens.
        seeds: runs of each candidate on each backbone.
        steps: updates of a run; with the other defaults every moment is drawn twice, as in `fovea graft` by default.
        batch_size: samples of an update.
        train: moments that batches are drawn from.
        held_out: moments that are scored.
        side: tokens of a camera are side x side.
        clock: seconds on the "wall", or seconds of "cpu" time, which other work on the machine does not stretch.
        out: also write the table to this file.
        json: print the numbers as JSON.
    """

    dataset: Path
    encoders: list[str] = field(
        default_factory=lambda: ["tiny", "tiny@attn_qk", "efficientnet_lite0", "random/tiny"]
    )
    backbones: int = 2
    seeds: int = 3
    steps: int = 64
    batch_size: int = 16
    train: int = 512
    held_out: int = 64
    side: int = 8
    clock: Literal["wall", "cpu"] = "wall"
    out: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for name in ("backbones", "seeds", "steps", "batch_size", "train", "side"):
            if getattr(self, name) < 1:
                raise FoveaError(f"--{name}: expected at least 1, got {getattr(self, name)}")
        if not self.encoders:
            raise FoveaError("--encoders: expected at least one")


def run(config: BenchGraftConfig) -> dict[str, Any]:
    """Time both ways for every encoder, one after the other.

    Non-obvious: encoding in every run is timed for ONE run of each encoder (every run draws as many pictures) and
    counted for all, with pictures that are decoded already; encoding once is timed whole: decoding (which the first
    encoder pays for all), encoding, writing, and every run's reading.
    """
    from fovea.data.dataset import open_dataset
    from fovea.grafting.samples import Samples
    from fovea.grafting.settings import SampleSettings
    from fovea.grafting.tokens import StoredTokens, create_encoder_of, store_tokens

    settings = SampleSettings(train=config.train, held_out=config.held_out)
    samples, stored = (Samples(open_dataset(config.dataset), settings) for _ in range(2))
    runs, pictures = config.backbones * config.seeds, _decoded(samples.frames)
    rows: list[dict[str, Any]] = []
    clock = time.process_time if config.clock == "cpu" else time.perf_counter
    with progress_bar() as bar, tempfile.TemporaryDirectory(prefix="fovea-bench-") as scratch:
        job = bar.add_task("benches", total=2 * len(config.encoders), note="")
        for name in config.encoders:
            encoder = create_encoder_of(name)
            bar.update(job, note=f"{name}: encoding in a run")
            encode_batches(encoder, pictures, [np.arange(2)], config.side)  # the first call takes longer
            draws = list(_draws(samples, config, seed=0))
            one_run = _timed(clock, encode_batches, encoder, pictures, draws, config.side)
            bar.update(job, advance=1, note=f"{name}: encoding once")
            folder = Path(scratch)
            began = clock()
            place = store_tokens(
                encoder, stored.frames, {config.side}, folder, root=folder, workers=1, progress=False
            )
            built = clock() - began
            store = StoredTokens(place)
            drawn = (list(_draws(samples, config, seed)) for seed in range(runs))
            read = sum(_timed(clock, read_batches, store, draws, config.side) for draws in drawn)
            bar.advance(job)
            rows.append(
                {
                    "encoder": name,
                    "pictures_a_run": _pictures_a_run(samples, config),
                    "pictures_once": len(samples.frames) * len(samples.frames.cameras),
                    "every_run": round(one_run * runs, 3),
                    "build": round(built, 3),
                    "read": round(read, 3),
                    "saving": round(one_run * runs / (built + read), 2),
                }
            )
    every, once = sum(row["every_run"] for row in rows), sum(row["build"] + row["read"] for row in rows)
    return {
        "runs": runs * len(config.encoders),
        "backbones": config.backbones,
        "seeds": config.seeds,
        "dataset": config.dataset.name,
        "steps": config.steps,
        "clock": config.clock,
        "batch_size": config.batch_size,
        "rows": rows,
        "every_run": round(every, 3),
        "once": round(once, 3),
        "saving": round(every / once, 2),
        "commit": current_commit(),
    }


def _draws(samples: Any, config: BenchGraftConfig, seed: int) -> Iterator[np.ndarray]:
    """Frame rows of every batch of a run: training, then scoring."""
    for step in range(config.steps):
        yield np.array([moment.row for moment in samples.draw(seed, step, config.batch_size)])
    rows = np.array([moment.row for moment in samples.held_out])
    yield from np.array_split(rows, max(1, len(rows) // config.batch_size))


def encode_batches(encoder: Any, pictures: Sequence[Any], draws: Sequence[np.ndarray], side: int) -> None:
    """What a run does that keeps no tokens: its pictures are in memory, it encodes and pools each batch."""
    import torch

    from fovea.grafting.wrapper import pool

    with torch.inference_mode():
        for rows in draws:
            for camera in pictures:
                pool(encoder.encode_image(camera[rows]).values.float(), encoder.grid, side)


def read_batches(store: Any, draws: Sequence[np.ndarray], side: int) -> None:
    """What a run does with kept tokens."""
    from fovea.grafting.wrapper import pool

    for rows in draws:
        for tokens in store.read(rows, side):
            pool(tokens, store.grid(side), side)


def _decoded(frames: Any) -> list[Any]:
    """All chosen frames of each camera, uint8 (F, 3, h, w)."""
    import torch

    return [
        torch.from_numpy(np.concatenate([frames.frames(e.index, camera) for e in frames.episodes]))
        .permute(0, 3, 1, 2)
        .contiguous()
        for camera in frames.cameras
    ]


def _pictures_a_run(samples: Any, config: BenchGraftConfig) -> int:
    return (config.steps * config.batch_size + len(samples.held_out)) * len(samples.frames.cameras)


def _timed(clock: Callable[[], float], work: Callable[..., None], *arguments: Any) -> float:
    began = clock()
    work(*arguments)
    return clock() - began


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| encoder | encoding in every run | once: building | reading in every run | saving |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['encoder']} | {row['every_run']:.1f} s | {row['build']:.1f} s | {row['read']:.1f} s "
            f"| {row['saving']:.1f}x |"
        )
    lines.append(
        f"| **all {result['runs']} runs** | {result['every_run']:.1f} s | {result['once']:.1f} s | | "
        f"**{result['saving']:.1f}x** |"
    )
    return "\n".join(lines) + "\n"


def write(result: dict[str, Any], out: Path) -> None:
    """A page with the table."""
    text = (
        "# Tokens computed once\n\n"
        f"`fovea bench graft --dataset outputs/data/{result['dataset']}` (commit {result['commit']}): "
        f"{len(result['rows'])} encoders, {result['backbones']} backbones, {result['seeds']} seeds; runs of "
        f"{result['steps']} updates of {result['batch_size']} samples, and scoring ({result['clock']} time). Up to the "
        f"projector only; the backbone's own work is the same both ways.\n\n{table(result)}"
    )
    with atomic_write(out) as file:
        file.write(text.encode())
