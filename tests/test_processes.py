import multiprocessing
import os
import signal

import pytest

from fovea.errors import FoveaError
from fovea.processes import spread


def number_and_process(job):
    return job, os.getpid()


def die_at_three(job):
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def refuse_at_three(job):
    if job == 3:
        raise FoveaError("three is not allowed")
    return job


def test_every_job_is_done_once_and_processes_are_renewed():
    done = list(spread(number_and_process, range(5), 2, renewed=1))
    assert sorted(job for job, _ in done) == [0, 1, 2, 3, 4]
    assert len({process for _, process in done}) > 2
    assert list(spread(number_and_process, [], 2)) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (die_at_three, "a working process died .* go on, with fewer --workers"),
        (refuse_at_three, "three is not"),
    ],
)
def test_a_process_that_dies_or_refuses_ends_the_work(function, message):
    with pytest.raises(FoveaError, match=message):
        list(spread(function, range(6), 2))
    assert multiprocessing.active_children() == []
