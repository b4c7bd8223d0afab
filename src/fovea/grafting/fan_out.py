"""Runs of a study spread over processes of this machine, or the CPUs of a Ray cluster."""

import multiprocessing
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fovea.errors import FoveaError
from fovea.processes import ctrl_c_stays_here
from fovea.sim.gl import single_threaded_children

if TYPE_CHECKING:
    from fovea.grafting.runs import Job

EngineName = Literal["local", "ray"]
Work = Callable[[Any], dict[str, Any]]


def run_jobs(
    jobs: "Sequence[Job]",
    *,
    workers: int,
    engine: EngineName = "local",
    address: str | None = None,
    work: Work | None = None,
) -> Iterator[dict[str, Any]]:
    """Records as they are finished.

    Jobs of one backbone go to one process as far as possible: loading it takes seconds.

    Args:
        workers: processes; with `ray`, runs at a time.
        engine: `local` processes or a `ray` cluster, whose nodes must see the same folders (a shared disk).
        address: of the cluster.
        work: what is done with a job, `run_job` by default.

    Raises:
        FoveaError: from a run, or all processes died.
    """
    work = work or _run_job
    if engine == "ray":
        yield from _on_ray(jobs, workers, address, work)
    elif workers == 1 or len(jobs) < 2:
        yield from map(work, jobs)
    else:
        yield from _on_processes(jobs, workers, work)


def _run_job(job: "Job") -> dict[str, Any]:
    from fovea.grafting.runs import run_job

    return run_job(job)


def _on_processes(jobs: Sequence[Any], workers: int, work: Work) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    todo: Any = context.Queue()
    results: Any = context.Queue()
    for job in jobs:
        todo.put(job)
    count = min(workers, len(jobs))
    for _ in range(count):
        todo.put(None)
    processes = [
        context.Process(target=_worker, args=(todo, results, work), daemon=True) for _ in range(count)
    ]
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


def _worker(todo: Any, results: Any, work: Work) -> None:
    while (job := todo.get()) is not None:
        try:
            results.put(work(job))
        except FoveaError as error:
            results.put(str(error))
            return


def _on_ray(jobs: Sequence[Any], workers: int, address: str | None, work: Work) -> Iterator[dict[str, Any]]:
    from fovea.evaluation.ray_engine import connect

    ray, ours = connect(address)
    try:
        remote = ray.remote(num_cpus=1, max_retries=2)(work)
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
