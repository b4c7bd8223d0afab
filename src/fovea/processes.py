"""Child processes: work spread over several of them, and Ctrl-C."""

import itertools
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from fovea.errors import FoveaError


def spread[Job, Result](
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, *, renewed: int | None = None
) -> Iterator[Result]:
    """`function(job)` of every job, in new processes, in the order in which they finish.

    Args:
        function: of a module, so that it can be sent.
        workers: processes at a time.
        renewed: jobs of a process after which all are replaced, for work that leaves memory behind.

    Raises:
        FoveaError: a process died. What a job raises is raised here; in both cases the others are ended.
    """
    context = multiprocessing.get_context("spawn")
    for some in itertools.batched(jobs, renewed * workers if renewed else max(len(jobs), 1)):
        before = set(multiprocessing.active_children())
        with ProcessPoolExecutor(min(workers, len(some)), mp_context=context) as pool:
            try:
                with ctrl_c_stays_here():
                    futures = [pool.submit(function, job) for job in some]
                for future in as_completed(futures):
                    yield future.result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                ours = set(multiprocessing.active_children()) - before
                for process in ours:
                    process.terminate()
                for process in ours:
                    process.join()
                if isinstance(error, BrokenProcessPool):
                    raise FoveaError(
                        "a working process died (out of memory?); run the same command again to go on, with fewer "
                        "--workers"
                    ) from error
                raise


@contextmanager
def ctrl_c_stays_here() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C; whoever starts them ends them.

    A terminal sends it to the whole group of processes, and a child that is still importing would print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be set, none arrive
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
