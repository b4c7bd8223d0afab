"""Long jobs in processes of their own."""

import json
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
from toy_jobs import ToyJob, work

from fovea.errors import FoveaError
from fovea.pipelines.side_by_side import side_by_side, trained_steps


def test_a_job_that_fails_is_named_with_its_log_and_the_other_one_is_kept(tmp_path, capfd):
    jobs = [ToyJob("bread", tmp_path / "bread"), ToyJob("cake", tmp_path / "cake", fails=True)]
    log = tmp_path / "cake" / "log.txt"
    with pytest.raises(FoveaError) as caught:
        side_by_side(jobs, work, title="loaves", workers=2, progress=False)
    assert str(caught.value) == f"cake: expected flour, got none (log: {log})"
    assert log.read_text() == "cake speaks\n"
    assert (tmp_path / "bread" / "done").exists()
    assert "speaks" not in capfd.readouterr().out


def test_a_process_that_dies_is_a_message_that_says_how_to_go_on(tmp_path):
    with pytest.raises(FoveaError, match=r"cake: its process died, or one beside it .* fewer --workers"):
        side_by_side(
            [ToyJob("cake", tmp_path / "cake", dies=True)], work, title="loaves", workers=1, progress=False
        )


def test_a_process_that_dies_between_two_jobs_is_the_same_message(tmp_path, monkeypatch):
    def broken(*_):
        raise BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
    with pytest.raises(FoveaError, match=r"cake: its process died, or one beside it .* fewer --workers"):
        side_by_side([ToyJob("cake", tmp_path / "cake")], work, title="loaves", workers=1, progress=False)


def test_a_training_is_as_far_as_its_last_whole_line_says(tmp_path):
    assert trained_steps(tmp_path) == 0
    lines = [json.dumps({"step": step}) for step in (20, 40)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"ste']))
    assert trained_steps(tmp_path) == 40
