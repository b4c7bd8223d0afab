"""Jobs that are killed go on and end as if nothing had happened. `benchmarks/drills.py` does the same more often."""

import os

import pytest
from jobs import DATA, JOBS
from killing import drill
from synthetic_episodes import LENGTHS, make_episode

from fovea.data.record import assemble
from fovea.data.staging import write_episode

KILLS = int(os.environ.get("FOVEA_DRILL_KILLS", "4"))  # of each of the five jobs


@pytest.mark.parametrize("job", JOBS)
def test_a_killed_job_goes_on_to_the_same_result(job, tmp_path):
    if job == "cache":
        for number, steps in enumerate(LENGTHS):
            write_episode(tmp_path / "staging", number, **make_episode(number, steps))
        assemble(tmp_path / "staging", tmp_path / DATA, {}, progress=False)
    outcome = drill(job, tmp_path, KILLS)
    assert outcome.kills == KILLS
    assert outcome.finished >= 1
    assert outcome.same
