"""`fovea experts bench` without a simulator: what is kept, gone on with, and written."""

import json

import pytest

from fovea.cli import experts
from fovea.errors import FoveaError
from fovea.pipelines import bench_experts
from fovea.pipelines.bench_experts import BenchExpertsConfig


@pytest.fixture
def played(monkeypatch):
    """Stands in for the simulator: state 2 of every task fails. The list holds what was played."""
    jobs = []

    def play(job):
        _, task_id, states, commit = job
        jobs.extend((task_id, state) for state in states)
        return [
            {
                "task_id": task_id,
                "state": state,
                "steps": None if state == 2 else 100 + state,
                "unsupported": None,
                "commit": commit,
            }
            for state in states
        ]

    monkeypatch.setattr(bench_experts, "_play_some", play)
    return jobs


def test_it_goes_on_where_it_was_killed(tmp_path, played):
    config = BenchExpertsConfig(suite="libero_goal", tasks=[1, 4], states=3, records=tmp_path)
    bench_experts.run(config)
    lines = config.file.read_text().splitlines(keepends=True)
    config.file.write_text("".join(lines[:3]) + lines[3][:20])  # killed while it wrote
    played.clear()
    result = bench_experts.run(config)
    assert played == [(4, 0), (4, 1), (4, 2)]
    assert result["total"]["successes"] == 4
    assert result["tasks"][0]["steps"] == [100, 101, None]
    assert len(config.file.read_text().splitlines()) == 6


def test_the_page_keeps_the_tables_of_other_suites(tmp_path, played, capsys):
    page = tmp_path / "expert.md"
    for suite in ("libero_goal", "libero_spatial", "libero_goal"):
        experts.run(
            BenchExpertsConfig(suite=suite, tasks=[0], states=3, records=tmp_path / "records", out=page)
        )
    text = page.read_text()
    assert text.count("## libero_goal\n") == text.count("## libero_spatial\n") == 1
    assert "`fovea experts bench --suite libero_goal --states 3 --tasks 0`" in text
    assert "| open the middle drawer of the cabinet | 2/3 | 21% - 94% | 100 | 101 |" in text
    assert "| **all** | 2/3 |" in capsys.readouterr().out


def test_json_says_how_often_and_under_which_disturbance(tmp_path, played, capsys):
    experts.run(
        BenchExpertsConfig(suite="libero_goal", tasks=[7], states=1, noise=0.2, records=tmp_path, json=True)
    )
    result = json.loads(capsys.readouterr().out)
    assert result["total"] == {"rate": 1.0, "successes": 1, "episodes": 1, "interval": [0.2065, 1.0]}
    assert "--noise 0.2 --recoveries 0.25 --seed 0" in result["command"]


def test_more_states_than_there_are_is_refused(tmp_path):
    with pytest.raises(FoveaError, match="has 50 initial states, got 60"):
        bench_experts.run(BenchExpertsConfig(suite="libero_goal", states=60, records=tmp_path))
