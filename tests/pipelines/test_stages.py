"""Stages keep their time over interruptions and refuse to mix two studies."""

import pytest

from fovea.errors import FoveaError
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


def test_another_study_in_the_same_folder_is_refused(tmp_path):
    with Stages(tmp_path, {"seed": 0, "steps": 5}).stage("train", "..."):
        pass
    with pytest.raises(FoveaError, match="steps"):
        Stages(tmp_path, {"seed": 0, "steps": 6})
