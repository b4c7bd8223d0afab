"""Jobs spread over processes."""

import pytest
from toy_work import square

from fovea.errors import FoveaError
from fovea.grafting.fan_out import run_jobs


def test_every_job_is_done_once_by_several_processes():
    records = list(run_jobs(range(8), workers=2, work=square))
    assert sorted(record["job"] for record in records) == list(range(8))
    assert all(record["square"] == record["job"] ** 2 for record in records)
    assert len({record["process"] for record in records}) == 2


@pytest.mark.parametrize(
    ("job", "message"), [(-1, "at least 0, got -1"), (-2, "one of them died.*fewer --workers")]
)
def test_what_a_job_refuses_is_told_and_a_death_is_found(job, message):
    with pytest.raises(FoveaError, match=message):
        list(run_jobs([job, 0, 1], workers=2, work=square))
