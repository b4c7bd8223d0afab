"""`fovea compile`: the copy is made once, compared on other pictures, and found again."""

import json

import pytest

from fovea.cli import main
from fovea.data import dataset as dataset_module
from fovea.data.compiled import calibration_pictures
from fovea.errors import FoveaError
from fovea.pipelines.bench_ef_vla_measure import SyntheticDataset


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A data set that is drawn, whatever folder is named, and an empty cache."""
    dataset = SyntheticDataset(128, 6)
    monkeypatch.setattr(dataset_module, "open_dataset", lambda root: dataset)
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path))
    return dataset


def test_the_copy_is_made_once_and_compared(drawn, capsys):
    words = "compile --encoder tiny --dataset somewhere --backend openvino-fp32 --pictures 4".split()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cosine"] == pytest.approx(1, abs=1e-4)
    assert found["pointing_within_one"] > 0.99
    assert main(words) == 0
    text = capsys.readouterr().out
    assert found["folder"] in text
    assert "on 4 other pictures" in text
    assert "--encoder_backend openvino-fp32" in text


def test_calibration_takes_as_many_pictures_as_it_is_told(drawn):
    for count in (1, 7, 40):
        seen = calibration_pictures(drawn, count)
        assert seen.shape[1:] == (3, 128, 128)
        assert count <= len(seen) <= count + 16
    drawn.cameras = ()
    with pytest.raises(FoveaError, match="got 0 cameras"):
        calibration_pictures(drawn, 8)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("compile --encoder tiny", "needs --dataset"),
        ("compile --dataset x --pictures 0", "pictures"),
        ("compile --dataset x --backend onnx", "openvino-int8"),
        ("compile --dataset nowhere", "nowhere"),
    ],
)
def test_bad_input_is_named(line, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    assert hint in capsys.readouterr().err
