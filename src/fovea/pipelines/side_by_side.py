"""Long jobs side by side: each in a process, a folder and on a core of its own; what it says is in `log.txt` there."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Protocol

from fovea.errors import FoveaError
from fovea.progress import progress_bar
from fovea.training.metrics import read_metrics

POLL_SECONDS = 2.0


class LongJob(Protocol):
    """What can be run side by side: it has a name, a folder, and knows how far it is; it can be pickled."""

    @property
    def label(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def progress(self) -> str:
        """How far it is, read from its folder: this is asked by another process than the one that runs it."""
        ...


def side_by_side[Job: LongJob](
    jobs: Sequence[Job],
    work: Callable[[Job], None],
    *,
    title: str,
    workers: int,
    done: int = 0,
    progress: bool = True,
) -> None:
    """Run jobs, `workers` at a time, each with one torch thread; Ctrl-C ends them all.

    Args:
        work: a function of a module: processes import it.
        title: of the progress bar ("cells").
        done: so many more were finished before; the bar counts them.

    Raises:
        FoveaError: from a job, with its name; the others that run are waited for. A process that dies takes those
            beside it along.
    """
    waiting = list(jobs)
    context = multiprocessing.get_context("spawn")
    with (
        progress_bar(visible=progress) as bar,
        ProcessPoolExecutor(workers, mp_context=context, initializer=live_and_die_with_the_study) as pool,
    ):
        task = bar.add_task(title, total=len(waiting) + done, completed=done, note="")
        running: dict[Future, Job] = {}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    try:
                        running[pool.submit(_run, work, job)] = job
                    except BrokenExecutor as broken:  # a process died between two jobs
                        raise _named(next(iter(running.values()), job), broken) from broken
                finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in finished:
                    job = running.pop(future)
                    if error := future.exception():
                        waiting.clear()
                        raise _named(job, error)
                    bar.advance(task)
                bar.update(task, note="; ".join(job.progress() for job in running.values()))
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()  # a job goes on from its last checkpoint
            raise


def trained_steps(folder: Path) -> int:
    """The last step that a training's metrics.jsonl tells of, 0 before the first."""
    reports = read_metrics(folder / "metrics.jsonl")
    return int(reports[-1]["step"]) if reports else 0


def live_and_die_with_the_study() -> None:
    """The study ends its processes: on Ctrl-C, which a terminal sends to them as well, and however else it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    study = multiprocessing.parent_process()
    assert study is not None

    def watch() -> None:
        study.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run[Job: LongJob](work: Callable[[Job], None], job: Job) -> None:
    import torch

    job.folder.mkdir(parents=True, exist_ok=True)
    with open(job.folder / "log.txt", "a", buffering=1) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        sys.stdout = sys.stderr = log
        torch.set_num_threads(1)
        work(job)


def _named(job: LongJob, error: BaseException) -> BaseException:
    if isinstance(error, BrokenExecutor):
        return FoveaError(
            f"{job.label}: its process died, or one beside it (out of memory?); run the same command again to go on, "
            f"with fewer --workers (log: {job.folder / 'log.txt'})"
        )
    if isinstance(error, FoveaError):
        return FoveaError(f"{job.label}: {error} (log: {job.folder / 'log.txt'})")
    return error
