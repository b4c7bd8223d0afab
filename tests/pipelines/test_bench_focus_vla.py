"""`fovea bench focus-vla` at toy sizes: what it reports, not how fast anything is."""

import json

import pytest
import torch

from fovea.errors import FoveaError
from fovea.pipelines import bench_focus_vla
from fovea.pipelines.bench_focus_vla import FOCUS, OURS, REFERENCE, BenchFocusVLAConfig
from fovea.pipelines.bench_focus_vla_reference import turned

TOY = {"layers": 2, "width": 32, "heads": 4, "tokens": 8, "feature_width": 24, "rounds": 2, "threads": 1}


@pytest.fixture(scope="module")
def result():
    return bench_focus_vla.run(BenchFocusVLAConfig(batches=[1, 3], json=True, **TOY))


def test_every_policy_is_measured_at_every_batch(result):
    for batch in (1, 3):
        assert list(result[f"batch_{batch}"]) == [REFERENCE, *OURS]
        assert result[f"batch_{batch}"][REFERENCE]["ratio"] == 1
        assert result["ratio"][f"batch_{batch}"] == result[f"batch_{batch}"][FOCUS]["ratio"]
    assert json.loads(json.dumps(result)) == result


def test_a_larger_batch_keeps_more_for_its_backward(result):
    for name in (REFERENCE, *OURS):
        assert result["batch_3"][name]["kept_mb"] >= result["batch_1"][name]["kept_mb"]


def test_the_published_form_has_the_parameters_of_ours(result):
    ours, published = result["parameters"]["VLA-Adapter-Pro"], result["parameters"][REFERENCE]
    assert ours == published + 8 * 7 * 32  # learned chunk queries


def test_the_page_names_its_command_and_all_rows(result, tmp_path):
    bench_focus_vla.write(result, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "fovea bench focus-vla --batches 1,3 --layers 2" in text
    assert all(f"| {name} |" in text for name in OURS)


def test_rotary_positions_keep_lengths_and_depend_on_distance_only():
    x = torch.randn(1, 1, 1, 8).expand(1, 1, 6, 8)
    at = turned(x)
    torch.testing.assert_close(at.norm(dim=-1), x.norm(dim=-1))
    products = (at[0, 0] @ at[0, 0].T).diagonal(2)
    torch.testing.assert_close(products, products[:1].expand(4))


@pytest.mark.parametrize(
    ("field", "value"), [("rounds", 0), ("batches", []), ("batches", [0]), ("tokens", 7), ("threads", 0)]
)
def test_bad_settings_are_refused_by_name(field, value):
    with pytest.raises(FoveaError, match=field):
        BenchFocusVLAConfig(**{**TOY, field: value})
