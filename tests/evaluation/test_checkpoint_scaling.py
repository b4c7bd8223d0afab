"""A checkpoint whose processors lost their statistics must not act unscaled."""

import pytest
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline, UnnormalizerProcessorStep

from fovea.errors import FoveaError
from fovea.evaluation.scaling import check_scaling

STATE = {"observation.state": PolicyFeature(FeatureType.STATE, (8,))}
ACTION = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
MODES = {FeatureType.STATE: NormalizationMode.MEAN_STD, FeatureType.ACTION: NormalizationMode.QUANTILES}


def pipelines(state=8, action=7, names=("q01", "q99"), modes=MODES):
    stats = {
        "observation.state": {"mean": torch.zeros(state), "std": torch.ones(state)},
        "action": {name: torch.ones(action) for name in names},
    }
    before = NormalizerProcessorStep(features=STATE | ACTION, norm_map=modes, stats=stats if state else {})
    after = UnnormalizerProcessorStep(features=ACTION, norm_map=modes, stats=stats if action else {})
    return PolicyProcessorPipeline([before]), PolicyProcessorPipeline([after])


def test_what_scales_states_and_actions_is_there(tmp_path):
    check_scaling(tmp_path, *pipelines())
    unscaled = dict.fromkeys(MODES, NormalizationMode.IDENTITY)
    assert check_scaling(tmp_path, *pipelines(state=0, action=0, modes=unscaled)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": 0}, r"expected q01 of action, shape \(7,\).*got none"),
        ({"state": 0}, r"expected mean of observation.state, shape \(8,\).*got none"),
        ({"names": ("q01",)}, r"expected q99 of action.*got none"),
        ({"action": 6}, r"expected q01 of action, shape \(7,\).*got shape \(6,\)"),
    ],
)
def test_what_is_missing_is_named(changes, said, tmp_path):
    with pytest.raises(FoveaError, match=said):
        check_scaling(tmp_path, *pipelines(**changes))
