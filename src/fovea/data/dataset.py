"""Read a LeRobotDataset v3 from disk: low-dimensional columns as arrays, pictures one episode at a time.

Light on purpose: no hub, no torch, no LeRobot import; videos are decoded in order with PyAV (torchcodec
needs FFmpeg libraries of the system, PyAV brings its own).

Shapes: F frames of the whole data set, n frames of one episode, h, w pixels.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fovea.data import keys
from fovea.data.files import read_json, sha256_file
from fovea.data.record import EPISODES, RECORD, SEAL, content_hashes, record_hash
from fovea.errors import FoveaError


@dataclass(frozen=True)
class EpisodeInfo:
    """One episode of a data set.

    Args:
        index: its number.
        start, stop: its rows in the arrays of the whole data set, stop excluded.
        task: the instruction.
        split: train or val (train where the data set does not say).
        label_from: first step whose action counts in the loss.
        record: its line of meta/fovea_episodes.jsonl, among it `start` (how it began); empty for foreign
            data sets.
    """

    index: int
    start: int
    stop: int
    task: str
    split: str = "train"
    label_from: int = 0
    record: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class _VideoPlace:
    path: Path
    first_frame: int


class RecordedDataset:
    """A data set opened by `open_dataset`.

    Attributes:
        root: its folder.
        fps: frames a second.
        state: (F, S) float32.
        action: (F, A) float32.
        episodes: one `EpisodeInfo` each, in order.
        stats: LeRobot's statistics (`meta/stats.json`), by column.
        record: meta/fovea.json, or empty.
        cameras: keys of the picture columns.
        picture_sizes: camera -> (height, width) in pixels.
    """

    def __init__(self, root: Path, cameras: tuple[str, ...]) -> None:
        self.root, self.cameras = root, cameras
        self.record = read_json(root / RECORD, "record") if (root / RECORD).is_file() else {}
        self._sound: set[str] = set()
        self._check_files()
        info = read_json(root / "meta/info.json", "data set's meta/info.json")
        version = str(info.get("codebase_version"))
        if not version.startswith("v3"):
            raise FoveaError(
                f"{root} is a LeRobot data set {version}, expected v3.x; convert it with LeRobot"
            )
        for key in (*cameras, keys.STATE, keys.ACTION):
            if key not in info["features"]:
                raise FoveaError(
                    f"{root} has no column {key!r}; it has {', '.join(sorted(info['features']))}"
                )
        for key in cameras:
            if (kind := info["features"][key].get("dtype")) != "video":
                raise FoveaError(
                    f"expected the pictures of {root} as videos, got {key} as {kind}; record or convert the data set "
                    "with videos, or train on it with lerobot-train"
                )
        self.fps = int(info["fps"])
        self.picture_sizes = {key: _picture_size(info["features"][key], key, root) for key in cameras}
        self.stats: dict[str, dict[str, list]] = read_json(root / "meta/stats.json", "data set's statistics")
        columns = [keys.STATE, keys.ACTION, "task_index", "episode_index", "frame_index"]
        rows = _read_tables(sorted(root.glob("data/**/*.parquet")), root, columns)
        self.state = _matrix(rows, keys.STATE, info, root)
        self.action = _matrix(rows, keys.ACTION, info, root)
        table = _read_tables(sorted(root.glob("meta/episodes/**/*.parquet")), root)
        tasks = _read_tables([root / "meta/tasks.parquet"], root).to_pylist()
        sentences = {row["task_index"]: row.get("task", row.get("__index_level_0__")) for row in tasks}
        task_of_row = rows.column("task_index").to_numpy()
        episode_of_row = rows.column("episode_index").to_numpy()
        extra = _episode_lines(root)
        self.episodes: list[EpisodeInfo] = []
        self._places: list[dict[str, _VideoPlace]] = []
        wanted = ["episode_index", "dataset_from_index", "dataset_to_index"]
        parts = ("chunk_index", "file_index", "from_timestamp")
        wanted += [f"videos/{key}/{part}" for key in cameras for part in parts]
        for row in sorted(table.select(wanted).to_pylist(), key=lambda row: row["episode_index"]):
            index, start, stop = (row[name] for name in wanted[:3])
            if not (0 <= start < stop <= len(rows)) or (episode_of_row[start:stop] != index).any():
                raise FoveaError(
                    f"{root}: episode {index} should be rows {start}..{stop - 1} of {len(rows)}, but the table holds "
                    "something else there; the data set is damaged, assemble it again"
                )
            line = extra.get(index, {})
            self.episodes.append(
                EpisodeInfo(
                    index,
                    start,
                    stop,
                    str(sentences[int(task_of_row[start])]),
                    line.get("split", "train"),
                    line.get("label_from", 0),
                    line,
                )
            )
            self._places.append({key: self._place(info["video_path"], key, row) for key in cameras})

    def __len__(self) -> int:
        return len(self.state)

    def select(self, split: str) -> list[EpisodeInfo]:
        """The episodes of a split (train, val)."""
        return [episode for episode in self.episodes if episode.split == split]

    def frames(self, episode_index: int, camera: str, first: int = 0, count: int | None = None) -> np.ndarray:
        """Decode pictures of one episode and camera: (n, h, w, 3) uint8, upright.

        Args:
            first, count: only these frames of the episode; all from `first` on by default.

        Raises:
            FoveaError: if the camera or the frames are not there, or the video is missing, truncated or damaged.
        """
        import av

        if camera not in self.cameras:
            raise FoveaError(f"expected a camera among {', '.join(self.cameras)}, got {camera!r}")
        place, length = self._places[episode_index][camera], len(self.episodes[episode_index])
        n = length - first if count is None else count
        if not 0 <= first < first + n <= length:
            raise FoveaError(
                f"expected frames of episode {episode_index} in 0..{length - 1}, got {n} from {first}"
            )
        begin = place.first_frame + first
        if not place.path.is_file():
            raise FoveaError(f"the video {place.path} is missing; restore it or assemble the data set again")
        self._check_file(place.path.relative_to(self.root).as_posix())
        pictures: list[np.ndarray] = []
        av.logging.set_level(av.logging.FATAL)  # a damaged file is told once, by us
        try:
            with av.open(str(place.path)) as container:
                stream = container.streams.video[0]
                tick = float(stream.time_base or 0) * self.fps
                container.seek(round(begin / tick), stream=stream)
                for frame in container.decode(stream):
                    number = round((frame.pts or 0) * tick) - begin
                    if number == len(pictures):
                        pictures.append(frame.to_ndarray(format="rgb24"))
                    if len(pictures) == n:
                        return np.stack(pictures)
        except (av.FFmpegError, IndexError, ZeroDivisionError) as error:
            raise FoveaError(self._damaged(place.path, episode_index, str(error))) from error
        raise FoveaError(self._damaged(place.path, episode_index, f"{len(pictures)} of {n} frames found"))

    @staticmethod
    def _damaged(path: Path, episode: int, why: str) -> str:
        return f"cannot decode episode {episode} from {path} ({why}); restore the file or assemble the data set again"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the contents of all data and video files.

        Raises:
            FoveaError: if a file differs from what meta/fovea.json recorded when the data set was assembled.
        """
        hashes = content_hashes(self.root)
        for name, expected in self.record.get("files", {}).items():
            if hashes.get(name) != expected:
                raise FoveaError(
                    f"{self.root / name} is damaged or was changed: its SHA-256 is {hashes.get(name)}, recorded was "
                    f"{expected}; restore it or assemble the data set again"
                )
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    def _check_files(self) -> None:
        """Nothing is missing, and all that is read as numbers is as it was recorded; videos are checked when read."""
        if SEAL in self.record and self.record[SEAL] != record_hash(self.record):
            raise FoveaError(
                f"{self.root / RECORD} is damaged or was changed (its own SHA-256 differs); restore it or assemble the "
                "data set again"
            )
        for name in self.record.get("files", {}) | self.record.get("meta", {}):
            if not (self.root / name).is_file():
                raise FoveaError(f"{self.root / name} is missing; restore it or assemble the data set again")
            if not name.endswith(".mp4"):
                self._check_file(name)

    def _check_file(self, name: str) -> None:
        """Compare a file with its recorded SHA-256, once."""
        expected = (self.record.get("files", {}) | self.record.get("meta", {})).get(name)
        if expected is None or name in self._sound:
            return
        if (found := sha256_file(self.root / name)) != expected:
            raise FoveaError(
                f"{self.root / name} is damaged or was changed: its SHA-256 is {found}, recorded was {expected}; "
                "restore it or assemble the data set again (after a change that was meant, delete meta/fovea.json)"
            )
        self._sound.add(name)

    def _place(self, template: str, key: str, row: dict[str, Any]) -> _VideoPlace:
        chunk, file = row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]
        path = self.root / template.format(video_key=key, chunk_index=chunk, file_index=file)
        return _VideoPlace(path, round(row[f"videos/{key}/from_timestamp"] * self.fps))


def open_dataset(root: str | Path, *, cameras: tuple[str, ...] = keys.IMAGES) -> RecordedDataset:
    """Open a LeRobotDataset v3 folder; see `RecordedDataset`.

    Raises:
        FoveaError: if the folder is no such data set, a camera or column is missing, a table is damaged,
            holds NaN, or has vectors of the wrong size.
    """
    root = Path(root)
    if not (root / "meta/info.json").is_file():
        raise FoveaError(f"expected a LeRobot data set at {root} (a folder with meta/info.json), found none")
    return RecordedDataset(root, cameras)


def _picture_size(feature: dict[str, Any], key: str, root: Path) -> tuple[int, int]:
    shape = [int(side) for side in feature.get("shape", ())]
    if len(shape) != 3:
        raise FoveaError(
            f"{root}: expected {key} of height, width and 3 colours in meta/info.json, got {shape}"
        )
    names = feature.get("names") or ("height", "width", "channels")
    sides = shape[1:] if str(names[0]).startswith("channel") else shape[:2]
    return sides[0], sides[1]


def _read_tables(paths: list[Path], root: Path, columns: list[str] | None = None) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not paths:
        raise FoveaError(f"{root} has no parquet tables under data/ or meta/episodes/; assemble it again")
    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(path, columns=columns))
        except (pa.ArrowException, OSError) as error:
            raise FoveaError(
                f"{path} is truncated or damaged ({error}); assemble the data set again"
            ) from error
    return pa.concat_tables(tables)


def _matrix(rows: Any, key: str, info: dict[str, Any], root: Path) -> np.ndarray:
    """A vector column as (F, size) float32, checked against the declared size and for NaN."""
    size = info["features"][key]["shape"][0]
    values = rows.column(key).combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if flat.size != len(rows) * size or (key == keys.ACTION and size != 7):
        sizes = flat.size / max(len(rows), 1)
        raise FoveaError(
            f"{root}: expected {key} vectors of {7 if key == keys.ACTION else size}, got {sizes:g}"
        )
    matrix = flat.reshape(len(rows), size)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if bad.size:
        episode = rows.column("episode_index")[int(bad[0])].as_py()
        frame = rows.column("frame_index")[int(bad[0])].as_py()
        raise FoveaError(
            f"{root}: {key} is NaN or infinite in {bad.size} rows, first in episode {episode}, frame {frame}; "
            "remove that episode"
        )
    return matrix


def _episode_lines(root: Path) -> dict[int, dict[str, Any]]:
    path = root / EPISODES
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return {int(line["episode_index"]): line for line in lines}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FoveaError(f"{path} is damaged ({error!r}); assemble the data set again") from error
