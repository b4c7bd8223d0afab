"""Before anything is computed, a policy learns the size of its pictures, and refuses data that do not suit it."""

import json

import pytest

from fovea.data.dataset import open_dataset
from fovea.data.files import locked
from fovea.errors import FoveaError
from fovea.pipelines.learn import fit_to_data, train_policy, trained_on
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.training.config import TrainConfig


@pytest.mark.parametrize("kind", [EFVLAConfig, FocusVLAConfig])
def test_the_policy_says_how_large_its_pictures_were(dataset, kind):
    config = kind.preset("tiny", device="cpu")
    fit_to_data(config, dataset)
    frames = {key: dataset.frames(0, key, 0, 1) for key in config.camera_keys}
    for key, feature in config.image_features.items():
        assert feature.shape[1:] == frames[key].shape[1:3]
    assert {key: feature.shape for key, feature in config.image_features.items()} != {
        key: feature.shape for key, feature in kind.preset("tiny", device="cpu").image_features.items()
    }


def test_channels_may_come_first_in_the_data_set_s_own_words(dataset_copy):
    path = dataset_copy / "meta/info.json"
    info = json.loads(path.read_text())
    key = "observation.images.image"
    height, width, _ = info["features"][key]["shape"]
    info["features"][key] |= {"shape": [3, height, width], "names": ["channels", "height", "width"]}
    path.write_text(json.dumps(info))
    (dataset_copy / "meta/fovea.json").unlink()  # a change that was meant
    assert open_dataset(dataset_copy).picture_sizes[key] == (height, width)


def test_a_preset_for_another_robot_is_refused_before_anything_is_cached(dataset_root, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))
    config = EFVLAConfig.preset("otter", device="cpu")
    with pytest.raises(FoveaError, match=r"expected states of 10 numbers, as the policy has them.* have 8"):
        train_policy(dataset_root, config, TrainConfig(steps=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_the_released_code_learns_libero_s_data_when_told_how_its_states_lie(dataset):
    with pytest.raises(FoveaError, match=r"takes LIBERO's data with --policy\.state_layout axis_angle"):
        fit_to_data(EFVLAConfig.preset("otter", device="cpu"), dataset)
    config = EFVLAConfig.preset("otter", state_layout="axis_angle", device="cpu")
    fit_to_data(config, dataset)
    config.validate_features()
    assert (config.plays_libero, config.action_size, config.proprio_size) == (True, 10, 10)


def test_a_state_of_another_size_is_named_as_such(dataset):
    dataset.state = dataset.state[:, :3]
    dataset.stats["observation.state"] = {k: v[:3] for k, v in dataset.stats["observation.state"].items()}
    with pytest.raises(FoveaError, match="expected states of 8 numbers, as the policy has them"):
        fit_to_data(EFVLAConfig.preset("tiny", device="cpu"), dataset)


def test_pictures_that_are_no_videos_are_refused_before_the_table_is_read(dataset_copy):
    path = dataset_copy / "meta/info.json"
    info = json.loads(path.read_text())
    for feature in info["features"].values():
        feature["dtype"] = "image" if feature["dtype"] == "video" else feature["dtype"]
    path.write_text(json.dumps(info))
    (dataset_copy / "meta/fovea.json").unlink()  # a change that was meant
    with pytest.raises(FoveaError, match=r"as videos, got observation\.images\.image as image"):
        open_dataset(dataset_copy)


def test_a_run_that_is_refused_leaves_the_record_of_the_one_before(dataset_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))

    def train(steps):
        settings = TrainConfig(steps=steps, batch_size=2, validation_windows=2)
        config = EFVLAConfig.preset("tiny", n_layers=1, device="cpu")
        train_policy(dataset_copy, config, settings, tmp_path / "run")

    train(1)
    before = (tmp_path / "run" / "data.json").read_text()
    (dataset_copy / "meta/fovea.json").unlink()  # now nothing says how it was drawn
    with pytest.raises(FoveaError, match=r"steps was 1, is 2"):
        train(2)
    assert (tmp_path / "run" / "data.json").read_text() == before


def test_a_run_that_another_process_holds_keeps_its_record(dataset_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "data.json").write_text("of the other process")
    config = EFVLAConfig.preset("tiny", n_layers=1, device="cpu")
    with locked(run / ".lock"), pytest.raises(FoveaError, match="another process is working"):
        train_policy(dataset_copy, config, TrainConfig(steps=1, batch_size=2), run)
    assert (run / "data.json").read_text() == "of the other process"


def test_how_pictures_were_drawn_is_asked_of_the_run_alone(tmp_path):
    folder = tmp_path / "run/checkpoints/000010/pretrained_model"
    folder.mkdir(parents=True)
    (tmp_path / "data.json").write_text('{"mine": 1}')  # of somebody else
    assert trained_on(folder) is None
    record = tmp_path / "run/data.json"
    record.write_text('{"render": {"image_size": 128}}')
    assert trained_on(folder) == trained_on(folder.parent) == {"image_size": 128}
    for damaged, said in (("{", "is not JSON"), ("{}", "is damaged"), ("[]", "is damaged")):
        record.write_text(damaged)
        with pytest.raises(FoveaError, match=said):
            trained_on(folder)


def test_a_gripper_of_another_kind_is_refused_before_anything_is_cached(dataset_copy, tmp_path):
    path = dataset_copy / "meta/stats.json"
    stats = json.loads(path.read_text())
    stats["action"]["min"][-1], stats["action"]["max"][-1] = 0.0, 1.0
    path.write_text(json.dumps(stats))
    (dataset_copy / "meta/fovea.json").unlink()
    for config, setting in (
        (EFVLAConfig.preset("tiny", device="cpu"), "gripper_loss=l1"),
        (FocusVLAConfig.preset("tiny", device="cpu"), "gripper=as_is"),
    ):
        with pytest.raises(FoveaError, match=f"got 0 to 1 in the data set; set --policy.{setting}"):
            train_policy(dataset_copy, config, TrainConfig(steps=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()
