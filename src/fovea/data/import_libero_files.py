"""What LIBERO's demonstration files hold (`data/demo_*/obs/agentview_rgb` ...), and whether it can be used.

T steps of a demonstration, S side of its pictures in pixels.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fovea.errors import FoveaError

CAMERAS = ("obs/agentview_rgb", "obs/eye_in_hand_rgb")
NUMBERS = {"actions": 7, "obs/ee_states": 6, "obs/gripper_states": 2}
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Demo:
    """A demonstration whose arrays have the right names and shapes."""

    name: str
    steps: int
    side: int

    @property
    def bytes(self) -> int:
        """Of its pictures, unpacked."""
        return self.steps * self.side * self.side * 3 * len(CAMERAS)


@dataclass(frozen=True)
class LiberoFile:
    """One task's file.

    Attributes:
        path: where it is.
        stored, from_name: the instruction that it stores, and the one its name spells; each stands in for the other.
        upright: its pictures begin with the top row (robosuite's "opencv" convention; official files do not).
        demos: those that can be used, by number.
        problems: one sentence for each that cannot be, or for the file.
        notes: what a user should know, and nothing to refuse.
    """

    path: Path
    stored: str = ""
    from_name: str = ""
    upright: bool = False
    demos: tuple[Demo, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def require_h5py() -> Any:
    """The module that reads HDF5.

    Raises:
        FoveaError: it is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise FoveaError(
            "reading HDF5 needs h5py, which is not installed: `pip install 'lerobot_policy_fovea[libero]'`"
        ) from error
    return h5py


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading.

    Raises:
        FoveaError: h5py is not installed, or the file is truncated or no HDF5.
    """
    h5py = require_h5py()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FoveaError(f"{path.name} is no whole HDF5 file ({error}); download it again") from error
    with file:
        yield file


def outline(path: Path) -> LiberoFile:
    """What a file holds, without reading its pictures."""
    require_h5py()
    try:
        with open_file(path) as file:
            return _outline(path, file)
    except FoveaError as error:
        return LiberoFile(path, problems=(str(error),))


def _outline(path: Path, file: Any) -> LiberoFile:
    import h5py

    data = file.get("data")
    if not isinstance(data, h5py.Group):
        return LiberoFile(
            path, problems=(f"{path.name}: expected a group `data`, found {sorted(file) or 'nothing'}",)
        )
    names = sorted((name for name in data if re.fullmatch(r"demo_\d+", name)), key=lambda name: int(name[5:]))
    if not names:
        return LiberoFile(
            path, problems=(f"{path.name}: expected demonstrations data/demo_0 ..., found none",)
        )
    stored, from_name = stored_instruction(data.attrs), instruction_of_name(path.stem)
    notes = []
    if stored and stored != from_name:
        notes.append(f'{path.name} says "{stored}", its name (and evaluations) "{from_name}"')
    demos, problems = [], []
    for name in names:
        found = _check(data[name])
        if isinstance(found, str):
            problems.append(f"{path.name} {name}: {found}")
        else:
            demos.append(Demo(name, *found))
    upright = _text(data.attrs.get("macros_image_convention", "opengl")) == "opencv"
    return LiberoFile(
        path, stored or from_name, from_name, upright, tuple(demos), tuple(problems), tuple(notes)
    )


def _check(group: Any) -> tuple[int, int] | str:
    """Steps and side of a demonstration, or what is wrong with its layout."""
    import h5py

    arrays = {key: group.get(key) for key in (*NUMBERS, *CAMERAS)} if isinstance(group, h5py.Group) else {}
    missing = [key for key in (*NUMBERS, *CAMERAS) if not isinstance(arrays.get(key), h5py.Dataset)]
    if missing:
        return f"expected {', '.join(missing)}, found none"
    steps = arrays["actions"].shape[0] if arrays["actions"].ndim else 0
    if steps < 2:
        return f"expected at least 2 steps, got {steps}"
    for key, width in NUMBERS.items():
        if arrays[key].shape != (steps, width) or arrays[key].dtype.kind != "f":
            return f"expected {key} ({steps}, {width}) of floats, got {arrays[key].shape} {arrays[key].dtype}"
    side = arrays[CAMERAS[0]].shape[1] if arrays[CAMERAS[0]].ndim == 4 else 0
    for key in CAMERAS:
        shape, dtype = arrays[key].shape, arrays[key].dtype
        if shape != (steps, side, side, 3) or dtype != np.uint8 or side % 2 or not side:
            return f"expected {key} ({steps}, S, S, 3) uint8, S even and that of both cameras, got {shape} {dtype}"
    return steps, side


def arrays(file: Any, demo: Demo, *, upright: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (T, 2, S, S, 3), state (T, 8) and action (T, 7) of a demonstration, as Fovea has them.

    Raises:
        FoveaError: NaN, infinity, an action beyond [-1, 1] or an orientation that is no axis-angle.
        OSError: the file is damaged here.
    """
    group = file["data"][demo.name]
    numbers = {key: np.asarray(group[key], np.float64) for key in NUMBERS}
    for key, values in numbers.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise FoveaError(f"expected finite {key}, got NaN or infinity at steps {bad[:5].tolist()}")
    action = numbers["actions"]
    if (largest := float(np.abs(action).max())) > 1 + TOLERANCE:
        raise FoveaError(f"expected actions in [-1, 1], got {largest:.3f}")
    angle = float(np.linalg.norm(numbers["obs/ee_states"][:, 3:], axis=1).max())
    if angle > 2 * np.pi + 1e-3:
        raise FoveaError(
            f"expected obs/ee_states as xyz and axis-angle (up to 2 pi), got an angle of {angle:.2f}"
        )
    rows = slice(None) if upright else slice(None, None, -1)
    pictures = [np.asarray(group[key])[:, rows, ::-1] for key in CAMERAS]
    state = np.concatenate([numbers["obs/ee_states"], numbers["obs/gripper_states"]], axis=1)
    return np.stack(pictures, axis=1), state.astype(np.float32), action.astype(np.float32)


def stored_instruction(attributes: Mapping[str, Any]) -> str:
    """The sentence of the `problem_info` attribute; "" where there is none."""
    try:
        info = json.loads(_text(attributes.get("problem_info", "{}")))
    except json.JSONDecodeError:
        return ""
    text = info.get("language_instruction", "") if isinstance(info, dict) else ""
    return ("".join(text) if isinstance(text, list) else str(text)).strip().strip('"').strip()


def instruction_of_name(stem: str) -> str:
    """The sentence that a file's name spells: "KITCHEN_SCENE1_open_the_drawer_demo" -> "open the drawer"."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", stem.removesuffix("_demo")).replace("_", " ").strip()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
