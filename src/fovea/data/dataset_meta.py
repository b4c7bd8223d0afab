"""What a LeRobotDataset v3 says of itself under meta/, checked before anything is computed from it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fovea.data import keys
from fovea.data.columns import read_tables
from fovea.data.files import read_json
from fovea.data.record import EPISODES
from fovea.errors import FoveaError

SENTENCE_COLUMNS = ("task", "__index_level_0__")  # LeRobot's, and that of an unnamed pandas index


def read_info(root: Path, cameras: tuple[str, ...]) -> dict[str, Any]:
    """meta/info.json of a data set with these cameras, states and actions.

    Raises:
        FoveaError: it is of another version, lacks a column, or has pictures that are no videos.
    """
    info = read_json(root / "meta/info.json", "data set's meta/info.json")
    if not isinstance(info, dict):
        raise FoveaError(f"{root}: expected an object in meta/info.json, got {type(info).__name__}")
    version = str(info.get("codebase_version"))
    if not version.startswith("v3"):
        raise FoveaError(f"{root} is a LeRobot data set {version}, expected v3.x; convert it with LeRobot")
    features, fps = info.get("features"), info.get("fps")
    if not isinstance(features, dict) or not isinstance(info.get("video_path"), str):
        raise FoveaError(f"{root}: expected features and a video_path in meta/info.json; convert it again")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
        raise FoveaError(f"{root}: expected frames a second above 0 as fps in meta/info.json, got {fps!r}")
    for key in (*cameras, keys.STATE, keys.ACTION):
        if key not in features:
            raise FoveaError(f"{root} has no column {key!r}; it has {', '.join(sorted(features))}")
    for key in cameras:
        if (kind := features[key].get("dtype")) != "video":
            raise FoveaError(
                f"expected the pictures of {root} as videos, got {key} as {kind}; record or convert the data set "
                "with videos, or train on it with lerobot-train"
            )
    return info


def read_stats(root: Path, sizes: Mapping[str, int]) -> dict[str, dict[str, list]]:
    """meta/stats.json, by column.

    Args:
        sizes: columns that must have statistics, and how many numbers each of these has.

    Raises:
        FoveaError: a column without them (LeRobot would leave it unscaled), or numbers that cannot be.
    """
    path = root / "meta/stats.json"
    stats = read_json(path, "data set's statistics")
    remedy = "have LeRobot compute the statistics anew"
    if not isinstance(stats, dict) or not all(isinstance(value, dict) for value in stats.values()):
        raise FoveaError(f"{path}: expected statistics by column; {remedy}")
    for key, size in sizes.items():
        if not stats.get(key):
            raise FoveaError(f"{path}: expected statistics of {key}, found none; {remedy}")
        for name, value in stats[key].items():
            try:
                numbers = np.asarray(value, np.float64)
            except (TypeError, ValueError) as error:
                raise FoveaError(
                    f"{path}: expected numbers as {name} of {key}, got {value!r}; {remedy}"
                ) from error
            if not np.isfinite(numbers).all() or (name != "count" and numbers.shape != (size,)):
                raise FoveaError(
                    f"{path}: expected {size} finite numbers as {name} of {key}, got {value!r}; {remedy}"
                )
    return stats


def read_sentences(root: Path) -> dict[int, str]:
    """The instructions of meta/tasks.parquet by their number.

    Raises:
        FoveaError: there are none, or in a column of an unknown name.
    """
    rows = read_tables([root / "meta/tasks.parquet"], root).to_pylist()
    sentences: dict[int, str] = {}
    for row in rows:
        sentence = next((row[name] for name in SENTENCE_COLUMNS if name in row), None)
        if not isinstance(sentence, str) or row.get("task_index") is None:
            raise FoveaError(
                f"{root}: expected columns task_index and task (an instruction in words) in meta/tasks.parquet, got "
                f"{row!r}; convert the data set again"
            )
        sentences[int(row["task_index"])] = sentence
    return sentences


def episode_lines(root: Path) -> dict[int, dict[str, Any]]:
    """The lines of meta/fovea_episodes.jsonl by episode; none for a data set that is not ours.

    Raises:
        FoveaError: the file is damaged.
    """
    path = root / EPISODES
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return {int(line["episode_index"]): line for line in lines}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FoveaError(f"{path} is damaged ({error!r}); assemble the data set again") from error
