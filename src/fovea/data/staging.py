"""Staged episodes: what collection writes, one file an episode, before a data set is assembled.

Each finished episode is one `.npz` (uncompressed; the zip's CRC guards every array) that appears whole or not
at all: several collectors can share a folder, a killed collection loses at most the episode at hand, and
a second run collects only what is missing.

Shapes: n steps, C = 2 cameras (agent view, wrist), h, w pixels.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fovea.data.files import atomic_write, differing, locked, read_json, write_json
from fovea.errors import FoveaError

STATE_SIZE = 8
ACTION_SIZE = 7
SPLITS = ("train", "val")


@dataclass(frozen=True)
class StagedEpisode:
    """One finished episode.

    Args:
        index: its number within the collection; decides the order in the data set.
        images: (n, C, h, w, 3) uint8, upright, seen BEFORE the action of the same step.
        state: (n, 8) float32: end-effector xyz in m, axis-angle in rad, two gripper joints.
        action: (n, 7) float32 in [-1, 1]: the label, the expert's clean action.
        header: JSON-able. `start`: how the episode began (fields of `EpisodeStart`); `task`: the sentence;
            `split`: train or val; optional `label_from`: first step whose action is a good example (earlier
            ones are masked from the loss, for recoveries); anything else is kept as it is.

    Raises:
        FoveaError: if a shape, a type, a range or the header is not as said.
    """

    index: int
    images: np.ndarray
    state: np.ndarray
    action: np.ndarray
    header: Mapping[str, Any]

    def __post_init__(self) -> None:
        n = len(self.action)
        self._expect(self.images.dtype == np.uint8, "images uint8", self.images.dtype)
        image = self.images.shape
        self._expect(len(image) == 5 and image[1] == 2 and image[4] == 3, "images (n, 2, h, w, 3)", image)
        self._expect(not any(side % 2 for side in image[2:4]), "pictures with even sides, for videos", image)
        self._expect(n > 0 and image[0] == n, f"as many images as actions ({n}, at least 1)", image[0])
        self._expect(self.state.shape == (n, STATE_SIZE), f"state ({n}, {STATE_SIZE})", self.state.shape)
        self._expect(self.action.shape == (n, ACTION_SIZE), f"action ({n}, {ACTION_SIZE})", self.action.shape)
        for name, values in (("state", self.state), ("action", self.action)):
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            self._expect(
                bad.size == 0, f"finite {name} values", f"NaN or infinity at steps {bad[:5].tolist()}"
            )
        largest = float(np.abs(self.action).max())
        self._expect(largest <= 1 + 1e-5, "actions in [-1, 1]", f"{largest:.3f} (clip the expert's action)")
        for key, kind in (("start", dict), ("task", str), ("split", str)):
            self._expect(
                isinstance(self.header.get(key), kind),
                f"header[{key!r}] {kind.__name__}",
                self.header.get(key),
            )
        self._expect(self.header["split"] in SPLITS, f"header['split'] in {SPLITS}", self.header["split"])
        label_from = self.header.get("label_from", 0)
        self._expect(
            isinstance(label_from, int) and 0 <= label_from < n,
            f"header['label_from'] in 0..{n - 1}",
            label_from,
        )

    def _expect(self, fine: bool, expected: str, got: object) -> None:
        if not fine:
            raise FoveaError(f"staged episode {self.index}: expected {expected}, got {got}")

    def __len__(self) -> int:
        return len(self.action)


def check_free(out: Path) -> None:
    """Refuse a folder for a new data set that holds something.

    Raises:
        FoveaError: it does, or it has no name of its own, such as ".".
    """
    if not out.name:
        raise FoveaError(f"expected a new folder with a name, got {str(out)!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FoveaError(f"{out} exists already and is not empty; delete it or choose another folder")


@contextmanager
def claimed(out: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """The staging folder of a data set that will be `out`: made, or gone on with if it was begun with the same
    settings; this process's alone while the block runs.

    Raises:
        FoveaError: it was begun with other settings, `out` holds something, or another process fills it right now.
    """
    check_free(out)
    folder = out.with_name(f".{out.name}.staging")
    with locked(folder.with_suffix(".staging.lock"), wait=False):
        check_free(out)  # another process may have finished it meanwhile
        _claim(folder, identity)
        yield folder


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    if not path.exists():
        write_json(path, identity)
    elif different := differing(read_json(path, "settings of a staging folder"), dict(identity)):
        raise FoveaError(
            f"{folder} was begun with other settings ({', '.join(different)}); finish it with those, delete it, or "
            "choose another --out"
        )


def check_same(before: Any, identity: Mapping[str, Any], out: Path) -> None:
    """Refuse a finished data set that was made with other settings, `before`, than those asked for now.

    Raises:
        FoveaError: names the settings that differ.
    """
    if different := differing(before or {}, dict(identity)):
        raise FoveaError(
            f"{out} already holds a data set that was made otherwise (different: {', '.join(different)}); "
            "choose another --out or delete the folder"
        )


def is_validation(number: int, share: float) -> bool:
    """Whether the number-th episode of a task is for validation: spread evenly."""
    return int((number + 1) * share) > int(number * share)


def episode_path(folder: str | Path, index: int) -> Path:
    """The file of episode `index`."""
    return Path(folder) / f"episode_{index:06d}.npz"


def write_episode(
    folder: str | Path,
    index: int,
    *,
    images: np.ndarray,
    state: np.ndarray,
    action: np.ndarray,
    header: Mapping[str, Any],
) -> Path:
    """Validate one finished episode (see `StagedEpisode`) and write it atomically.

    An earlier episode of the same index is replaced.

    Raises:
        FoveaError: if the episode is not as `StagedEpisode` wants it; nothing is written then.
    """
    state, action = np.asarray(state, np.float32), np.asarray(action, np.float32)
    episode = StagedEpisode(index, np.asarray(images), state, action, header)
    text = json.dumps(dict(header), allow_nan=False)
    path = episode_path(folder, index)
    with atomic_write(path) as file:
        np.savez(file, images=episode.images, state=state, action=action, header=np.array(text))
    return path


class StagedEpisodes:
    """The episodes of a staging folder, in the order of their indices.

    Args:
        folder: where `write_episode` wrote; a folder that does not exist yet counts as empty.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def indices(self) -> list[int]:
        """Indices of the finished episodes, sorted; unfinished (temporary) files do not count."""
        names = (path.stem.removeprefix("episode_") for path in self.folder.glob("episode_*.npz"))
        return sorted(int(name) for name in names if name.isdigit())

    def __len__(self) -> int:
        return len(self.indices)

    def __contains__(self, index: int) -> bool:
        return episode_path(self.folder, index).is_file()

    def __iter__(self) -> Iterator[StagedEpisode]:
        return (self.read(index) for index in self.indices)

    def read(self, index: int) -> StagedEpisode:
        """Read and validate one episode.

        Raises:
            FoveaError: if the file is missing, truncated, damaged or not an episode.
        """
        path = episode_path(self.folder, index)
        arrays = self._load(path, ("images", "state", "action", "header"))
        return StagedEpisode(
            index, arrays["images"], arrays["state"], arrays["action"], _header(path, arrays["header"])
        )

    def header(self, index: int) -> dict[str, Any]:
        """Only the header of one episode (cheap).

        Raises:
            FoveaError: as `read`.
        """
        path = episode_path(self.folder, index)
        return _header(path, self._load(path, ("header",))["header"])

    def validate(self) -> list[str]:
        """Read every episode; return what is wrong with the bad ones, one sentence each."""
        problems = []
        for index in self.indices:
            try:
                self.read(index)
            except FoveaError as error:
                problems.append(str(error))
        return problems

    @staticmethod
    def _load(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        if not path.is_file():
            raise FoveaError(f"expected a staged episode at {path}, found none; collect it again")
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in names}
        except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError) as error:
            raise FoveaError(
                f"{path} is not a whole staged episode ({error}); delete it and collect again"
            ) from error


def _header(path: Path, value: np.ndarray) -> dict[str, Any]:
    try:
        header = json.loads(str(value))
    except json.JSONDecodeError as error:
        raise FoveaError(f"{path}: its header is not JSON ({error}); delete it and collect again") from error
    if not isinstance(header, dict):
        raise FoveaError(f"{path}: its header is not an object; delete it and collect again")
    return header
