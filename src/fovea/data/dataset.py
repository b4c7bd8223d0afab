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
from fovea.data.columns import read_tables, vectors
from fovea.data.dataset_meta import episode_lines, read_info, read_sentences, read_stats
from fovea.data.files import read_json, sha256_file
from fovea.data.record import RECORD, SEAL, content_hashes, record_hash
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
        info = read_info(root, cameras)
        self.fps: float = info["fps"]
        self.picture_sizes = {key: _picture_size(info["features"][key], key, root) for key in cameras}
        columns = [keys.STATE, keys.ACTION, "task_index", "episode_index", "frame_index"]
        rows = read_tables(sorted(root.glob("data/**/*.parquet")), root, columns)
        self.state = vectors(rows, keys.STATE, info["features"][keys.STATE]["shape"][0], root)
        self.action = vectors(rows, keys.ACTION, info["features"][keys.ACTION]["shape"][0], root)
        sizes = {keys.STATE: self.state.shape[1], keys.ACTION: self.action.shape[1]}
        self.stats: dict[str, dict[str, list]] = read_stats(root, sizes)
        self.episodes: list[EpisodeInfo] = []
        self._places: list[dict[str, _VideoPlace]] = []
        self._read_episodes(info, rows)

    def _read_episodes(self, info: dict[str, Any], rows: Any) -> None:
        """What meta/episodes and the tables of rows say about each episode; both must say the same."""
        root, extra, sentences = self.root, episode_lines(self.root), read_sentences(self.root)
        task_of_row = rows.column("task_index").to_numpy()
        episode_of_row = rows.column("episode_index").to_numpy()
        wanted = ["episode_index", "dataset_from_index", "dataset_to_index"]
        parts = ("chunk_index", "file_index", "from_timestamp")
        wanted += [f"videos/{key}/{part}" for key in self.cameras for part in parts]
        table = read_tables(sorted(root.glob("meta/episodes/**/*.parquet")), root, wanted)
        for number, row in enumerate(sorted(table.to_pylist(), key=lambda row: row["episode_index"])):
            index, start, stop = (row[name] for name in wanted[:3])
            if index != number:
                raise FoveaError(
                    f"{root}: expected episodes numbered 0, 1, 2 and so on in meta/episodes, got {index} in place of "
                    f"{number}; lerobot-edit-dataset numbers them anew when it deletes episodes"
                )
            if not (0 <= start < stop <= len(rows)) or (episode_of_row[start:stop] != index).any():
                raise FoveaError(
                    f"{root}: episode {index} should be rows {start}..{stop - 1} of {len(rows)}, but the table holds "
                    "something else there; the data set is damaged, assemble it again"
                )
            if (task := int(task_of_row[start])) not in sentences:
                raise FoveaError(
                    f"{root}: episode {index} has task number {task}, which meta/tasks.parquet does not know; the data "
                    "set is damaged, assemble it again"
                )
            line = extra.get(index, {})
            label_from = line.get("label_from", 0)
            if type(label_from) is not int or not 0 <= label_from < stop - start:
                raise FoveaError(
                    f"{root}: expected a label_from of episode {index} in 0..{stop - start - 1} (its steps), got "
                    f"{label_from!r}; correct meta/fovea_episodes.jsonl or assemble the data set again"
                )
            split = line.get("split", "train")
            self.episodes.append(EpisodeInfo(index, start, stop, sentences[task], split, label_from, line))
            self._places.append({key: self._place(info["video_path"], key, row) for key in self.cameras})

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
        """SHA-256 over the contents of all data and video files, and over which frames are an episode's where meta/ is
        not sealed by its own record.

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
        if "meta" not in self.record:
            places = [
                {
                    key: [place.path.relative_to(self.root).as_posix(), place.first_frame]
                    for key, place in its.items()
                }
                for its in self._places
            ]
            rows = [(episode.start, episode.stop) for episode in self.episodes]
            hashes["episodes"] = json.dumps([self.fps, rows, places], sort_keys=True)
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
            holds NaN, or has vectors of the wrong size, or its metadata contradicts itself.
    """
    root = Path(root)
    if not (root / "meta/info.json").is_file():
        raise FoveaError(f"expected a LeRobot data set at {root} (a folder with meta/info.json), found none")
    try:
        return RecordedDataset(root, cameras)
    except FoveaError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FoveaError(
            f"{root}: expected metadata as LeRobot v3 writes it, got something else ({type(error).__name__}: {error}); "
            "record or convert the data set again"
        ) from error


def _picture_size(feature: dict[str, Any], key: str, root: Path) -> tuple[int, int]:
    shape = [int(side) for side in feature.get("shape", ())]
    if len(shape) != 3:
        raise FoveaError(
            f"{root}: expected {key} of height, width and 3 colours in meta/info.json, got {shape}"
        )
    names = feature.get("names") or ("height", "width", "channels")
    sides = shape[1:] if str(names[0]).startswith("channel") else shape[:2]
    return sides[0], sides[1]
