"""Build a feature cache: run a frozen encoder over every frame of a data set, once.

Resumable per episode, safe against a second process (a lock) and a full disk: the size is said and, where it does not
fit, refused before the first byte; a disk that others fill meanwhile loses nothing that was finished.

Shapes: F frames of the data set, n of one episode, B pictures of a call, C cameras, N patches, D width.
"""

import hashlib
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from fovea.data.dataset import EpisodeInfo, RecordedDataset
from fovea.data.feature_cache import FORMAT, FeatureCache, read_journal
from fovea.data.files import (
    cache_root,
    full_disk_named,
    human_size,
    locked,
    read_json,
    require_space,
    write_json,
)
from fovea.encoders.base import VisionEncoder
from fovea.errors import FoveaError
from fovea.heap import keep_freed_memory
from fovea.progress import progress_bar
from fovea.threads import torch_threads

Transform = Callable[[Tensor, int, str], Tensor]
"""uint8 pictures (B, 3, h, w) of one episode, its number and the camera -> pictures of the same kind."""


def cache_key(
    encoder: VisionEncoder,
    dataset: RecordedDataset,
    variant: str = "none",
    cameras: Sequence[str] | None = None,
) -> str:
    """Name of the cache folder: SHA-256 over format, encoder identity, data contents, cameras and variant."""
    parts = [FORMAT, encoder.identity, dataset.fingerprint, list(cameras or dataset.cameras), variant]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def build_features(
    encoder: VisionEncoder,
    dataset: RecordedDataset,
    *,
    variant: str = "none",
    transform: Transform | None = None,
    cameras: Sequence[str] | None = None,
    root: str | Path | None = None,
    workers: int = 2,
    batch_size: int = 32,
    progress: bool = True,
) -> FeatureCache:
    """Open the cache of (encoder, dataset, variant), computing what is missing or damaged.

    A killed build goes on where it was; a second process that wants the same cache waits for the first.

    Args:
        encoder: anything with `encode_image`, `identity`, `grid`, `width`, `device`; its weights must be frozen. It
            runs where it is: move it to a GPU before.
        variant: name of the augmentation, part of the key.
        transform: applied before the encoder, see `Transform`; needs a `variant` of its own.
        cameras: which ones, in order; all of the data set by default.
        root: folder that holds all caches, `cache_root()` by default.
        workers: threads that encode at the same time.
        batch_size: pictures per call of the encoder.

    Raises:
        FoveaError: if the disk would fill, a video is damaged, or the encoder gives NaN or padded patches.
    """
    if (transform is None) != (variant == "none"):
        raise FoveaError("expected a transform and a variant name together, got only one of them")
    builder = FeatureBuilder(
        encoder,
        dataset,
        variant=variant,
        transform=transform,
        cameras=cameras,
        root=root,
        batch_size=batch_size,
    )
    return fill(builder, workers=workers, progress=progress)


def fill(builder: "FeatureBuilder", *, workers: int = 2, progress: bool = True) -> FeatureCache:
    """Compute what a planned cache lacks and open it; see `build_features`."""
    folder = builder.folder
    if builder.is_sealed():
        return FeatureCache(folder)  # takes no lock: the folder may be read-only

    def say(text: str) -> None:
        if progress:
            Console(stderr=True, soft_wrap=True).print(text)

    def notice() -> None:
        say(f"another process computes these features ({folder.name}): waiting for it")

    with (
        full_disk_named(folder),
        locked(folder.with_suffix(".lock"), notice=notice),
    ):
        if not builder.is_sealed():
            say(builder.describe_size())
            missing = builder.prepare()
            if missing:
                builder.run(missing, workers, progress)
    return FeatureCache(folder)


class FeatureBuilder:
    """Fills one cache folder; `fill` holds the lock. See `build_features`."""

    def __init__(
        self,
        encoder: VisionEncoder,
        dataset: RecordedDataset,
        *,
        variant: str = "none",
        transform: Transform | None = None,
        cameras: Sequence[str] | None = None,
        root: str | Path | None = None,
        batch_size: int = 32,
    ) -> None:
        self.encoder, self.dataset = encoder, dataset
        self.transform, self.batch_size = transform, batch_size
        self.cameras = tuple(cameras or dataset.cameras)
        key = cache_key(encoder, dataset, variant, self.cameras)
        self.folder = folder = Path(root or cache_root()) / "features" / key
        rows, columns = encoder.grid
        self.shape = (len(dataset), len(self.cameras), rows * columns, encoder.width)
        self.size = 2 * int(np.prod(self.shape))
        self.about = {
            "format": FORMAT,
            "encoder": encoder.name,
            "identity": encoder.identity,
            "tap": encoder.tap,
            "dataset": dataset.fingerprint,
            "variant": variant,
            "cameras": list(self.cameras),
            "shape": list(self.shape),
            "dtype": "float16",
            "episodes": [[episode.start, episode.stop] for episode in dataset.episodes],
        }
        self.data, self.journal = folder / "patches.f16", folder / "journal.jsonl"
        self.sealed = folder / "sealed.json"
        self.writing = threading.Lock()

    def is_sealed(self) -> bool:
        """Whether all is there and nobody wrote to it since it was finished."""
        if not self.data.is_file() or _json_or_none(self.folder / "features.json") != self.about:
            return False
        if _json_or_none(self.sealed) != _stamp(self.data):
            return False
        return read_journal(self.folder).keys() == {episode.index for episode in self.dataset.episodes}

    def bytes_missing(self) -> int:
        """How much of the disk the finished file will take beyond what it takes now."""
        present = self.data.stat().st_blocks * 512 if self.data.is_file() else 0
        return max(self.size - present, 0)

    def describe_size(self) -> str:
        """One line for people: what will be written, where, and what is free there."""
        frames, cameras, patches, width = self.shape
        existing = next(folder for folder in self.folder.absolute().parents if folder.exists())
        augmented = "" if self.transform is None else ", augmented"
        return (
            f"{self.encoder.name}{augmented}: {frames:,} frames x {cameras} cameras x {patches} patches x {width} in "
            f"float16, {human_size(self.size)} in {self.folder}; {human_size(self.bytes_missing())} to write, "
            f"{human_size(shutil.disk_usage(existing).free)} free"
        )

    def prepare(self) -> list[EpisodeInfo]:
        """Create or mend the files; return the episodes still to compute."""
        self.folder.mkdir(parents=True, exist_ok=True)
        require_space(self.folder, self.bytes_missing(), "the feature cache")
        if _json_or_none(self.folder / "features.json") != self.about:
            self.journal.unlink(missing_ok=True)
            write_json(self.folder / "features.json", self.about)
        with open(self.data, "ab") as file:
            file.truncate(self.size)
        checksums = read_journal(self.folder)
        bytes_per_frame = self.size // self.shape[0]
        done = {}
        with open(self.data, "rb") as file:
            for episode in self.dataset.episodes:
                if episode.index in checksums:
                    file.seek(episode.start * bytes_per_frame)
                    if zlib.crc32(file.read(len(episode) * bytes_per_frame)) == checksums[episode.index]:
                        done[episode.index] = checksums[episode.index]
        _write_journal(self.journal, done)
        if len(done) == len(self.dataset.episodes):
            write_json(self.sealed, _stamp(self.data))
        return [episode for episode in self.dataset.episodes if episode.index not in done]

    def run(self, episodes: Sequence[EpisodeInfo], workers: int, progress: bool) -> None:
        keep_freed_memory()
        with (
            progress_bar(visible=progress) as bar,
            ThreadPoolExecutor(workers) as pool,
            open(self.data, "r+b") as data,
            open(self.journal, "a") as journal,
            torch_threads(1 if workers > 1 else None),  # several workers with several each would thrash
        ):
            pictures = sum(len(episode) for episode in episodes) * len(self.cameras)
            job = bar.add_task("encoding", total=pictures, note="pictures")
            jobs = [
                pool.submit(self._episode, e, data.fileno(), journal, lambda n: bar.advance(job, n))
                for e in episodes
            ]
            try:
                for finished in as_completed(jobs):
                    finished.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        write_json(self.sealed, _stamp(self.data))

    @torch.inference_mode()
    def _episode(self, episode: EpisodeInfo, data: int, journal: Any, advance: Callable[[int], None]) -> None:
        patches = np.empty((len(episode), *self.shape[1:]), np.float16)
        for camera, key in enumerate(self.cameras):
            pictures = torch.from_numpy(self.dataset.frames(episode.index, key)).permute(0, 3, 1, 2)
            for first in range(0, len(episode), self.batch_size):
                part = pictures[first : first + self.batch_size].contiguous()
                patches[first : first + len(part), camera] = self._encode(part, episode, key)
                advance(len(part))
        content = patches.tobytes()
        with self.writing:
            _write_at(data, content, episode.start * len(content) // len(episode))
            os.fdatasync(data)
            journal.write(json.dumps({"episode": episode.index, "crc32": zlib.crc32(content)}) + "\n")
            journal.flush()

    def _encode(self, pictures: Tensor, episode: EpisodeInfo, key: str) -> np.ndarray:
        if self.transform is not None:
            pictures = self.transform(pictures, episode.index, key)
        tokens = self.encoder.encode_image(pictures.to(self.encoder.device))
        expected = (len(pictures), *self.shape[2:])
        if tuple(tokens.values.shape) != expected or not bool(tokens.mask.all()):
            raise FoveaError(
                f"encoder {self.encoder.name} gave patches {tuple(tokens.values.shape)}, expected {expected} "
                "and none of them padding; its grid and width must describe them"
            )
        values = tokens.values.to(torch.float16).cpu().numpy()
        if not np.isfinite(values).all():
            raise FoveaError(
                f"encoder {self.encoder.name} gave NaN or values beyond float16 in episode {episode.index}, {key}"
            )
        return values


def _write_at(file: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _json_or_none(path: Path) -> Any:
    """Contents of a file of ours; None if it is not there or was damaged (it is then written anew)."""
    try:
        return read_json(path)
    except FoveaError:
        return None


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _write_journal(path: Path, checksums: dict[int, int]) -> None:
    lines: Iterable[str] = (json.dumps({"episode": k, "crc32": v}) + "\n" for k, v in checksums.items())
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(lines))
    os.replace(temporary, path)
