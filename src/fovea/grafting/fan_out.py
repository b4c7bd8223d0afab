"""Runs of a study spread over processes of this machine, or the CPUs of a Ray cluster."""

import multiprocessing
import queue
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from fovea.errors import FoveaError
from fovea.grafting.runs import Job, run_job
from fovea.processes import ctrl_c_stays_here
from fovea.sim.gl import single_threaded_children

EngineName = Literal["local", "ray"]


def run_jobs(
    jobs: Sequence[Job], *, workers: int, engine: EngineName = "local", address: str | None = None
) -> Iterator[dict[str, Any]]:
    """Records as they are finished.

    Jobs of one backbone go to one process as far as possible: loading it takes seconds.

    Args:
        workers: processes; with `ray`, runs at a time.
        engine: `local` processes or a `ray` cluster, whose nodes must see the same folders (a shared disk).
        address: of the cluster.

    Raises:
        FoveaError: from a run, or all processes died.
    """
    if engine == "ray":
        yield from _on_ray(jobs, workers, address)
    elif workers == 1 or len(jobs) < 2:
        yield from map(run_job, jobs)
    else:
        yield from _on_processes(jobs, workers)


def _on_processes(jobs: Sequence[Job], workers: int) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    todo: Any = context.Queue()
    results: Any = context.Queue()
    for job in jobs:
        todo.put(job)
    count = min(workers, len(jobs))
    for _ in range(count):
        todo.put(None)
    processes = [context.Process(target=_worker, args=(todo, results), daemon=True) for _ in range(count)]
    with single_threaded_children(), ctrl_c_stays_here():
        for process in processes:
            process.start()
    try:
        for _ in jobs:
            yield _receive(results, processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _receive(results: Any, processes: Sequence[Any]) -> dict[str, Any]:
    while True:
        try:
            result = results.get(timeout=1.0)
        except queue.Empty:
            if any(process.exitcode for process in processes) and results.empty():
                raise FoveaError(
                    "expected the grafting processes to finish, one of them died (out of memory?); run the same "
                    "command again to go on, with fewer --workers"
                ) from None
            continue
        if isinstance(result, str):
            raise FoveaError(result)
        return result


def _worker(todo: Any, results: Any) -> None:
    torch.set_num_threads(1)
    while (job := todo.get()) is not None:
        try:
            results.put(run_job(job))
        except FoveaError as error:
            results.put(str(error))
            return


def _on_ray(jobs: Sequence[Job], workers: int, address: str | None) -> Iterator[dict[str, Any]]:
    from fovea.evaluation.ray_engine import connect

    ray, ours = connect(address)
    try:
        remote = ray.remote(num_cpus=1, max_retries=2)(_run_single_threaded)
        waiting = list(jobs)
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(remote.remote(waiting.pop(0)))
            done, running = ray.wait(running)
            for answer in done:
                yield _get(ray, answer)
    finally:
        if ours:
            ray.shutdown()


def _get(ray: Any, answer: Any) -> dict[str, Any]:
    try:
        return ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FoveaError):
            raise FoveaError(str(error.cause)) from error
        raise


def _run_single_threaded(job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)
    return run_job(job)
