"""The off-screen GL that MuJoCo draws with: chosen before `mujoco` is imported, or not at all."""

from __future__ import annotations

import ctypes.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fovea.errors import FoveaError

LIBRARIES = {"osmesa": ("OSMesa", "libosmesa6"), "egl": ("EGL", "libegl1")}


def choose_gl() -> str:
    """Set `MUJOCO_GL` (OSMesa on Linux, which needs no display) unless it is set, and return it.

    Importing `fovea.sim` calls this, because MuJoCo reads the variable once, when it is imported. Software GL
    gets one thread (`LP_NUM_THREADS=1`, unless set): a second one buys nothing, a second process does.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if not os.environ.get("MUJOCO_GL", "").strip() and "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = "osmesa" if sys.platform == "linux" else "glfw"
    return os.environ.get("MUJOCO_GL", "").lower().strip()


def prepare_gl() -> None:
    """Check that pictures can be drawn off screen.

    Raises:
        FoveaError: the GL library is not installed, or `mujoco` was imported before a choice was made.
    """
    backend = choose_gl()
    if not backend and sys.platform == "linux":
        raise FoveaError(
            "mujoco was imported before an off-screen GL was chosen, so it draws to a display. "
            "Import fovea.sim first, or set MUJOCO_GL=osmesa (or egl) in the environment."
        )
    library, package = LIBRARIES.get(backend, ("", ""))
    if library and ctypes.util.find_library(library) is None:
        raise FoveaError(
            f"LIBERO needs off-screen GL, and MUJOCO_GL={backend} needs lib{library}, which was not found. "
            f"Install it (Debian and Ubuntu: apt-get install {package}) or set MUJOCO_GL to another back end."
        )


@contextmanager
def single_threaded_children() -> Iterator[None]:
    """Processes that are started inside compute and draw with one thread each; this process's setting comes back."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def import_libero_envs() -> dict[str, type]:
    """LIBERO's problem classes by problem name; robosuite's advice about its macro file stays unheard.

    Raises:
        FoveaError: the simulator is not installed, or its GL library is missing.
    """
    prepare_gl()
    logger = logging.getLogger("robosuite_logs")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from libero.libero.envs import TASK_MAPPING
    except ModuleNotFoundError as error:
        raise FoveaError(
            f"the LIBERO simulator is not installed (no module {error.name!r}). "
            'Install it with: pip install "lerobot_policy_fovea[libero]"'
        ) from error
    except PermissionError as error:
        raise FoveaError(
            f"robosuite logs to {error.filename}, which belongs to somebody else on this machine: "
            "have it removed, or run in a container of your own"
        ) from error
    finally:
        logger.setLevel(level)
    return dict(TASK_MAPPING)
