"""Training a backbone from scratch."""

from toy_graft import SIZES, make_suite

from fovea.data.dataset import open_dataset
from fovea.grafting import native
from fovea.grafting.native_training import train_native
from fovea.training.config import TrainConfig


def test_a_run_goes_on_whether_its_folder_is_named_from_here_or_from_the_root(tmp_path, monkeypatch):
    monkeypatch.setitem(native.SIZES, "toy", SIZES)
    monkeypatch.chdir(tmp_path)
    make_suite(tmp_path / "data")
    datasets = [open_dataset(tmp_path / "data")]
    config = TrainConfig(steps=2, batch_size=2, prefetch=1, validation_windows=2)
    here = (tmp_path / "backbone").relative_to(tmp_path)
    first = train_native("toy", datasets, here, config, progress=False)
    again = train_native("toy", datasets, tmp_path / "backbone", config, progress=False)
    assert (first.resumed_from, again.resumed_from) == (0, 2)
