"""Generated configurations run one step or are refused by name. `benchmarks/drills.py` runs two thousand."""

import os

import pytest
from configurations import KINDS, one_step, toy_encoder
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("FOVEA_DRILL_CONFIGURATIONS", "200"))


@pytest.mark.parametrize("name", KINDS)
def test_a_configuration_runs_one_step_or_names_what_it_cannot_be(name):
    kind, encoder = KINDS[name], toy_encoder()
    seen = {"ran": 0, "refused": 0}

    @settings(
        max_examples=CASES // len(KINDS),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def draw(data):
        seen[one_step(kind, data.draw(kind.changes()), encoder)] += 1

    draw()
    assert min(seen.values()) > CASES // 20
