"""Assemble staged episodes into a LeRobotDataset v3.

LeRobot's own metadata class writes everything under `meta/` but the two Fovea files; the parquet table and
the h264 videos are written here, straight from memory: its frame-by-frame recorder takes ten times as long
and drops frames when the encoder falls behind.

Shapes: n steps, C cameras, h, w pixels.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fovea.data import keys
from fovea.data.files import full_disk_named, locked, read_json, require_space, sha256_file, write_json
from fovea.data.staging import StagedEpisode, StagedEpisodes, check_free
from fovea.errors import FoveaError
from fovea.progress import progress_bar

if TYPE_CHECKING:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

RECORD = Path("meta/fovea.json")
EPISODES = Path("meta/fovea_episodes.jsonl")
SEAL = "sha256"  # of the record itself
VIDEO_FILE_BYTES = 100 << 20
_CODEC, _CRF, _PRESET, _KEYFRAMES = "h264", 14, "veryfast", 2
_STATS_STRIDE = 5


def assemble(
    staging_dir: str | Path,
    out_dir: str | Path,
    meta: Mapping[str, Any],
    *,
    repo_id: str = "local/fovea",
    robot_type: str = "panda",
    progress: bool = True,
) -> Path:
    """Write all staged episodes, in the order of their indices, as one LeRobotDataset v3.

    The data set is built in a hidden folder beside `out_dir` and renamed at the end: it is there whole, or
    not at all. The same staging folder gives the same bytes in `data/` and `videos/`.

    Args:
        staging_dir: what `fovea.data.staging.write_episode` filled.
        out_dir: where the data set goes; must not exist (or be empty).
        meta: JSON-able collection record (render settings, suite, noise, seed, versions ...), kept in
            meta/fovea.json together with the SHA-256 of every data and video file.

    Returns:
        `out_dir`.

    Raises:
        FoveaError: if there is no episode, an episode is damaged, picture sizes differ, `out_dir` is taken,
            another process assembles it right now, or the disk is too full.
    """
    staged, out_dir = StagedEpisodes(staging_dir), Path(out_dir)
    if not len(staged):
        raise FoveaError(f"expected staged episodes in {staging_dir}, found none; collect some first")
    check_free(out_dir)
    building = out_dir.with_name(f".{out_dir.name}.assembling")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with locked(out_dir.with_name(f".{out_dir.name}.lock"), wait=False):
        check_free(out_dir)
        shutil.rmtree(building, ignore_errors=True)
        staged_bytes = sum(path.stat().st_size for path in staged.folder.glob("episode_*.npz"))
        require_space(out_dir, staged_bytes // 8, "the data set")
        try:
            with full_disk_named(out_dir):
                _build(staged, building, dict(meta), repo_id, robot_type, progress)
                building.replace(out_dir)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return out_dir


def _build(
    staged: StagedEpisodes, root: Path, meta: dict[str, Any], repo_id: str, robot_type: str, progress: bool
) -> None:
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.datasets.io_utils import write_info

    height, width = staged.read(staged.indices[0]).images.shape[2:4]
    video = {"dtype": "video", "shape": (height, width, 3), "names": ["height", "width", "channels"]}
    columns = {keys.STATE: 8, keys.ACTION: 7}
    features: dict[str, dict] = {key: dict(video) for key in keys.IMAGES}
    features |= {key: {"dtype": "float32", "shape": (size,), "names": None} for key, size in columns.items()}
    info = LeRobotDatasetMetadata.create(repo_id, keys.FPS, features, robot_type=robot_type, root=root)
    try:
        lines = _write_episodes(staged, info, (height, width), progress)
    finally:
        info.finalize()  # not left to the garbage collector, which would write after the folder is gone
    _write_exact_quantiles(info)
    encoder = RGBEncoderConfig(vcodec=_CODEC, crf=_CRF, preset=_PRESET, g=_KEYFRAMES)
    info.update_video_info(video_encoder=encoder)
    write_info(info.info, root)
    (root / EPISODES).write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    record = meta | {"lerobot": version("lerobot"), "files": content_hashes(root), "meta": meta_hashes(root)}
    write_json(root / RECORD, record | {SEAL: record_hash(record)})


def _write_episodes(
    staged: StagedEpisodes, info: "LeRobotDatasetMetadata", size: tuple[int, int], progress: bool
) -> list[dict[str, Any]]:
    """Write every episode's rows, pictures and metadata; return the lines of meta/fovea_episodes.jsonl."""
    import pyarrow.parquet as pq
    from lerobot.datasets.feature_utils import get_hf_features_from_features

    root, indices = info.root, staged.indices
    schema = get_hf_features_from_features(info.features).arrow_schema
    videos = {key: _VideoFiles(root, info.video_path, key) for key in keys.IMAGES}
    data_path = root / info.data_path.format(chunk_index=0, file_index=0)
    data_path.parent.mkdir(parents=True)
    lines = []
    with (
        progress_bar(visible=progress) as bar,
        ThreadPoolExecutor(len(keys.IMAGES)) as pool,
        pq.ParquetWriter(data_path, schema, compression="snappy", use_dictionary=True) as table,
    ):
        job = bar.add_task("assembling", total=len(indices), note="")
        for number, index in enumerate(indices):
            episode = staged.read(index)
            if episode.images.shape[2:4] != size:
                raise FoveaError(
                    f"staged episode {index} has pictures of {episode.images.shape[2:4]}, the first one "
                    f"{size}; collect it again with the same image size"
                )
            streams = [episode.images[:, camera] for camera in range(len(keys.IMAGES))]
            places = pool.map(lambda key, frames: videos[key].add(frames), keys.IMAGES, streams)
            _add_rows(info, table, schema, number, episode)
            place = {name: value for one in places for name, value in one.items()}
            _add_metadata(info, number, episode, place)
            lines.append(_episode_line(number, episode))
            bar.advance(job)
        for files in videos.values():
            files.close()
    return lines


def _write_exact_quantiles(info: "LeRobotDatasetMetadata") -> None:
    """Quantiles of states and actions over all frames; LeRobot averages those of the episodes, which lie too near."""
    import pyarrow.parquet as pq
    from lerobot.datasets.io_utils import write_stats

    rows = pq.read_table(info.root / info.data_path.format(chunk_index=0, file_index=0))
    for key in (keys.STATE, keys.ACTION):
        values = np.stack(rows.column(key).to_numpy())
        for name in info.stats[key]:
            if name.startswith("q"):
                info.stats[key][name] = np.quantile(values, int(name[1:]) / 100, axis=0)
    write_stats(info.stats, info.root)


def _add_rows(
    info: "LeRobotDatasetMetadata", table: Any, schema: Any, number: int, episode: StagedEpisode
) -> None:
    import pyarrow as pa

    n, first = len(episode), info.total_frames
    info.save_episode_tasks([episode.header["task"]])
    task_index = info.get_task_index(episode.header["task"])
    columns = {
        keys.STATE: list(episode.state),
        keys.ACTION: list(episode.action),
        "timestamp": np.arange(n, dtype=np.float32) / keys.FPS,
        "frame_index": np.arange(n),
        "episode_index": np.full(n, number),
        "index": np.arange(first, first + n),
        "task_index": np.full(n, task_index),
    }
    table.write_table(pa.Table.from_pydict({name: columns[name] for name in schema.names}, schema=schema))


def _add_metadata(
    info: "LeRobotDatasetMetadata", number: int, episode: StagedEpisode, place: dict[str, Any]
) -> None:
    """Statistics (pictures in [0, 1], every fifth frame at half size) and where the episode's rows are."""
    from lerobot.datasets.compute_stats import compute_episode_stats, get_feature_stats

    n, first = len(episode), info.total_frames
    low_dimensional = {keys.STATE: episode.state, keys.ACTION: episode.action}
    stats = compute_episode_stats(low_dimensional, info.features)
    for camera, key in enumerate(keys.IMAGES):
        pictures = np.moveaxis(episode.images[::_STATS_STRIDE, camera, ::2, ::2], -1, 1)
        whole = get_feature_stats(pictures, axis=(0, 2, 3), keepdims=True)
        stats[key] = {k: v if k == "count" else np.squeeze(v / 255.0, axis=0) for k, v in whole.items()}
    rows = {
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": first,
        "dataset_to_index": first + n,
    }
    info.save_episode(number, n, [episode.header["task"]], stats, rows | place)


def _episode_line(number: int, episode: StagedEpisode) -> dict[str, Any]:
    header = {key: value for key, value in episode.header.items() if key not in ("start", "split")}
    fixed = {"episode_index": number, "start": episode.header["start"], "steps": len(episode)}
    return fixed | {"split": episode.header["split"], "staged_index": episode.index} | header


def totals(root: Path) -> dict[str, Any]:
    """`out`, `episodes` and `frames` of a finished data set."""
    info = read_json(root / "meta" / "info.json", "data set's meta/info.json")
    return {"out": str(root), "episodes": info["total_episodes"], "frames": info["total_frames"]}


def content_hashes(root: str | Path) -> dict[str, str]:
    """SHA-256 of every data and video file of a data set, by path relative to its root, sorted."""
    root = Path(root)
    files = sorted([*root.glob("data/**/*.parquet"), *root.glob("videos/**/*.mp4")])
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in files}


def meta_hashes(root: str | Path) -> dict[str, str]:
    """SHA-256 of every file under meta/ but the record itself, by path relative to the root, sorted."""
    root = Path(root)
    files = sorted(path for path in root.glob("meta/**/*") if path.is_file() and path != root / RECORD)
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in files}


def record_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's contents, without the hash itself."""
    text = json.dumps({key: value for key, value in record.items() if key != SEAL}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _VideoFiles:
    """One camera's h264 files: episode after episode, a keyframe at each start, a new file when one is full."""

    def __init__(self, root: Path, template: str, key: str) -> None:
        self.root, self.template, self.key = root, template, key
        self.file_index = -1
        self.frames = 0
        self.container: Any = None

    def add(self, frames: np.ndarray) -> dict[str, Any]:
        """Append one episode (n, h, w, 3) uint8; return where it went, as LeRobot's episode metadata."""
        import av

        if self.container is None or Path(self.container.name).stat().st_size > VIDEO_FILE_BYTES:
            self._open(frames.shape[1], frames.shape[2])
        start = self.frames
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self.frames, Fraction(1, keys.FPS)
            if number == 0:
                frame.pict_type = av.video.frame.PictureType.I
            self.container.mux(self.stream.encode(frame))
            self.frames += 1
        prefix = f"videos/{self.key}"
        return {
            f"{prefix}/chunk_index": 0,
            f"{prefix}/file_index": self.file_index,
            f"{prefix}/from_timestamp": start / keys.FPS,
            f"{prefix}/to_timestamp": self.frames / keys.FPS,
        }

    def _open(self, height: int, width: int) -> None:
        import av

        self.close()
        av.logging.set_level(av.logging.ERROR)
        self.file_index, self.frames = self.file_index + 1, 0
        path = self.root / self.template.format(video_key=self.key, chunk_index=0, file_index=self.file_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"crf": str(_CRF), "preset": _PRESET, "g": str(_KEYFRAMES), "threads": "1"}
        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream("libx264", rate=keys.FPS, options=options)
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        self.stream.time_base = Fraction(1, keys.FPS)

    def close(self) -> None:
        if self.container is not None:
            self.container.mux(self.stream.encode())
            self.container.close()
            self.container = None
