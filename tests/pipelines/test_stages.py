"""Stages keep their time over interruptions and refuse to mix two studies."""

import subprocess
from pathlib import Path

import pytest

from fovea.errors import FoveaError
from fovea.pipelines import stages as module
from fovea.pipelines.stages import Stages


def test_seconds_add_up_over_runs_also_interrupted_ones(tmp_path):
    stages = Stages(tmp_path, {"seed": 0})
    with pytest.raises(KeyboardInterrupt), stages.stage("collect", "..."):
        raise KeyboardInterrupt
    first = stages.seconds["collect"]
    again = Stages(tmp_path, {"seed": 0})
    with again.stage("collect", "..."):
        pass
    assert again.seconds["collect"] >= first


def test_a_finished_stage_costs_nothing_when_it_is_looked_at_again(tmp_path):
    seconds = []
    for _ in range(2):
        stages = Stages(tmp_path, {"seed": 0})
        with stages.stage("collect", "..."):
            pass
        seconds.append(stages.seconds)
    assert seconds[0] == seconds[1]


def test_a_stage_that_was_interrupted_still_counts_when_it_goes_on(tmp_path):
    with pytest.raises(RuntimeError), Stages(tmp_path, {}).stage("train", "..."):
        raise RuntimeError
    before = Stages(tmp_path, {}).seconds["train"]
    with Stages(tmp_path, {}).stage("train", "..."):
        pass
    assert Stages(tmp_path, {}).seconds["train"] > before


def test_another_study_in_the_same_folder_is_refused(tmp_path):
    with Stages(tmp_path, {"seed": 0, "steps": 5}).stage("train", "..."):
        pass
    with pytest.raises(FoveaError, match="steps"):
        Stages(tmp_path, {"seed": 0, "steps": 6})


def test_results_name_the_commit_of_this_library_wherever_they_are_made(tmp_path, monkeypatch):
    here = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    monkeypatch.chdir(tmp_path)
    assert module.current_commit() == (here.stdout.strip() or "unknown")
    subprocess.run(["git", "init", "-q"], check=True)
    copy = tmp_path / "site-packages" / "stages.py"  # installed below somebody else's repository
    copy.parent.mkdir()
    copy.write_text("")
    monkeypatch.setattr(module, "__file__", str(copy))
    assert module.current_commit() == "unknown"
