"""Kill a job again and again, at random moments, until it is done; does it end as if nothing had happened?

Half of the kills come at a random operation on a file, between two of which a job is most likely to be caught half-way;
the others at a random time.
"""

import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warm_processes
from jobs import JOBS

FILE_OPERATIONS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
}


@dataclass(frozen=True)
class Drill:
    """How it went: kills that hit, and whether each finished folder equals the one nobody disturbed."""

    job: str
    kills: int
    finished: int
    same: bool


def drill(job: str, folder: Path, kills: int, seed: int = 0) -> Drill:
    """Run `job` undisturbed, then with `kills` kills, starting anew in another folder whenever it got done."""
    rng = random.Random(f"{job} {seed}")
    operations, seconds = go(job, folder / "whole")
    expected = JOBS[job][1](folder / "whole")
    hit, finished, same = 0, 0, True
    while hit < kills:
        disturbed = folder / f"killed-{finished}"
        if kill_once(job, disturbed, rng, operations, seconds * rng.uniform(0.2, 1.0), at_file=hit % 2 == 0):
            hit += 1
            if hit < kills:
                continue
            go(job, disturbed)
        else:
            seconds *= 0.7  # the machine is faster now than when the time was taken
        finished += 1
        same = same and JOBS[job][1](disturbed) == expected
    return Drill(job, hit, finished, same)


def go(job: str, folder: Path) -> tuple[int, float]:
    """Let it finish; how many operations on files it took, and seconds."""
    log = folder.with_suffix(".log")
    done = warm_processes.run(_work, job, str(folder), 0, 0.0, log=log)
    assert done.code == 0, f"{job} failed by itself: {done.output[-3000:]}"
    operations, seconds = done.output.rsplit("operations and seconds: ", 1)[1].split()
    return int(operations), float(seconds)


def kill_once(
    job: str, folder: Path, rng: random.Random, operations: int, seconds: float, *, at_file: bool
) -> bool:
    """Whether the kill hit; False if the job was done before."""
    moment = (rng.randint(1, operations), 0.0) if at_file else (0, seconds)
    process = warm_processes.start(_work, job, str(folder), *moment)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"{job} failed when it went on ({process.exitcode})"
    return process.exitcode != 0


def _work(job: str, folder: str, kill_at: int, after: float) -> None:
    """In the child: the job, and death before its `kill_at`-th operation on a file there, or `after` seconds."""
    count, began = 0, time.monotonic()

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in FILE_OPERATIONS and arguments and str(arguments[0]).startswith(folder):
            count += 1
            if count == kill_at:
                die()

    sys.addaudithook(watch)
    if after:
        timer = threading.Timer(after, die)
        timer.daemon = True
        timer.start()
    JOBS[job][0](Path(folder))
    print(f"operations and seconds: {count} {time.monotonic() - began}", flush=True)
    os._exit(0)  # a timer that still runs has missed
