"""Where the simulators of an evaluation run: processes of this machine, or (ray_engine.py) a Ray cluster."""

import contextlib
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from fovea.evaluation.worker import Message, serve
from fovea.processes import ctrl_c_stays_here
from fovea.sim.gl import single_threaded_children


class WorkerDied(Exception):
    """A simulator is gone; the text says which one and how."""


class Worker(Protocol):
    """One `fovea.evaluation.worker.Simulator`, wherever it runs. It says ("ready", None) first."""

    def send(self, message: Any) -> None:
        """Ask; a worker that has died is found by `receive`, not here."""

    def receive(self) -> Message:
        """Its answer.

        Raises:
            WorkerDied: if it will never answer.
        """

    def stop(self) -> None:
        """End it, whatever it does."""


class Engine(Protocol):
    """Makes workers and waits for them."""

    def employ(self, render: dict[str, Any]) -> Worker:
        """Start a worker that draws so (`RenderSettings` as a dict); does not wait for it."""

    def wait(self, workers: Sequence[Any]) -> list[Any]:
        """Those of some workers whose answer (or death) can be received, at least one."""

    def close(self) -> None:
        """Leave nothing running."""


class LocalWorker:
    """A process of this machine at the end of a pipe."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe

    def send(self, message: Any) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def receive(self) -> Message:
        try:
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise WorkerDied(
                f"the simulating process {self.process.pid} died (exit code {self.process.exitcode})"
            ) from error

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


class LocalEngine:
    """Processes of this machine: one thread each, for simulation and for drawing."""

    def employ(self, render: dict[str, Any]) -> LocalWorker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, render), daemon=True)
        with single_threaded_children(), ctrl_c_stays_here():
            process.start()
        theirs.close()
        return LocalWorker(process, ours)

    def wait(self, workers: Sequence[LocalWorker]) -> list[LocalWorker]:
        ready = wait([worker.pipe for worker in workers])
        return [worker for worker in workers if worker.pipe in ready]

    def close(self) -> None:
        """Every process was stopped by its worker."""
