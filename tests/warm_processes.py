"""Processes that start warm: a server that has imported LeRobot once is forked for every command and every drill.

A fresh interpreter takes ten seconds to import LeRobot, and these tests need dozens of processes.
"""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    "pytest",
    "lerobot.scripts.lerobot_train",
    "lerobot.scripts.lerobot_eval",
    "lerobot.policies.factory",
    "fovea.policies.ef_vla.modeling_ef_vla",
    "fovea.training.trainer",
]
SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MUJOCO_GL": os.environ.get("MUJOCO_GL", "osmesa")}

_context = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Done:
    """A process that has ended: its exit code (negative: the signal) and all that it printed."""

    code: int | None
    output: str


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call `target(*arguments)`, a function of a test module, in a process of its own."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)  # the server keeps what it is born with: one thread, or forking is not safe
    _context.set_forkserver_preload(PRELOADED)
    process = _context.Process(target=target, args=arguments)
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return process


def run(target: Callable[..., None], *arguments: Any, log: Path) -> Done:
    """Call it and wait until it ends; what it prints goes to the file `log`."""
    process = start(_logged, target, arguments, str(log), dict(os.environ))
    process.join()
    return Done(process.exitcode, log.read_text(errors="replace"))


def command(name: str, arguments: Sequence[str], log: Path) -> Done:
    """Run a console command that is installed here, such as lerobot-train."""
    return run(_command, name, list(arguments), log=log)


def _logged(
    target: Callable[..., None], arguments: Sequence[Any], log: str, environment: dict[str, str]
) -> None:
    os.environ.update(environment | SETTINGS)
    with open(log, "w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with redirect_stdout(file), redirect_stderr(file):
            try:
                target(*arguments)
            except Exception:
                traceback.print_exc()
                sys.exit(1)


def _command(name: str, arguments: list[str]) -> None:
    (entry,) = entry_points(group="console_scripts", name=name)
    sys.argv = [name, *arguments]
    sys.exit(entry.load()())
