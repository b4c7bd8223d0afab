import json

import numpy as np
import pytest
from synthetic_episodes import LENGTHS, make_episode

from fovea.data import keys
from fovea.data.dataset import open_dataset
from fovea.data.files import locked
from fovea.data.record import assemble, content_hashes
from fovea.data.staging import episode_path, write_episode
from fovea.errors import FoveaError


def test_values_come_back(dataset):
    assert [len(episode) for episode in dataset.episodes] == list(LENGTHS)
    for number, episode in enumerate(dataset.episodes):
        original = make_episode(number, LENGTHS[number])
        rows = slice(episode.start, episode.stop)
        np.testing.assert_array_equal(dataset.state[rows], original["state"])
        np.testing.assert_array_equal(dataset.action[rows], original["action"])
        assert episode.task == original["header"]["task"]
        assert episode.record["start"] == original["header"]["start"]
        assert episode.record["staged_index"] == 10 * number
    assert [episode.index for episode in dataset.select("val")] == [2]
    assert dataset.record["seed"] == 3
    for name, value in (("mean", dataset.action.mean(0)), ("q99", np.quantile(dataset.action, 0.99, axis=0))):
        np.testing.assert_allclose(dataset.stats["action"][name], value, atol=1e-5)


def test_pictures_come_back_in_order(dataset):
    for number, steps in enumerate(LENGTHS):
        original = make_episode(number, steps)["images"].astype(float)
        for camera, key in enumerate(keys.IMAGES):
            frames = dataset.frames(number, key).astype(float)
            assert frames.shape == (steps, 32, 32, 3)
            for step in range(steps):
                errors = [np.abs(frames[step] - original[other, camera]).mean() for other in range(steps)]
                assert int(np.argmin(errors)) == step


def test_lerobot_itself_reads_it(dataset_root, dataset):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    theirs = LeRobotDataset("local/fovea", root=dataset_root, video_backend="pyav")
    assert (theirs.num_episodes, theirs.num_frames, theirs.fps) == (3, sum(LENGTHS), 20)
    item = theirs[LENGTHS[0] + 4]
    np.testing.assert_allclose(item["action"].numpy(), dataset.action[LENGTHS[0] + 4])
    assert item["task"] == "pick up number 1"
    ours = dataset.frames(1, keys.IMAGES[1])[4] / 255.0
    np.testing.assert_allclose(item[keys.IMAGES[1]].numpy().transpose(1, 2, 0), ours, atol=1 / 255)


def test_same_staging_same_bytes(staging, dataset_root, tmp_path):
    again = assemble(staging, tmp_path / "again", {"suite": "another note"}, progress=False)
    assert content_hashes(again) == content_hashes(dataset_root)


def test_interrupted_assembly_leaves_nothing(staging, tmp_path):
    for number in (0, 1):
        write_episode(tmp_path / "staging", number, **make_episode(number, 8))
    path = episode_path(tmp_path / "staging", 1)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FoveaError, match="not a whole staged episode"):
        assemble(tmp_path / "staging", tmp_path / "sets" / "one", {}, progress=False)
    assert not [path for path in (tmp_path / "sets").iterdir() if path.is_dir()]
    (tmp_path / "sets" / ".one.assembling" / "meta").mkdir(parents=True)  # left by a killed process
    assert assemble(staging, tmp_path / "sets" / "one", {}, progress=False).is_dir()


def test_refusals(staging, dataset_root, tmp_path):
    with pytest.raises(FoveaError, match="found none"):
        assemble(tmp_path / "empty", tmp_path / "set", {})
    with pytest.raises(FoveaError, match="not empty"):
        assemble(staging, dataset_root, {})
    with locked(tmp_path / ".set.lock"), pytest.raises(FoveaError, match="another process"):
        assemble(staging, tmp_path / "set", {}, progress=False)
    write_episode(tmp_path / "mixed", 0, **make_episode(0, 4))
    write_episode(tmp_path / "mixed", 1, **make_episode(0, 4, size=64))
    with pytest.raises(FoveaError, match="same image size"):
        assemble(tmp_path / "mixed", tmp_path / "mixed_set", {}, progress=False)


def truncate(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def test_damaged_files_are_named(dataset_copy):
    video = dataset_copy / f"videos/{keys.IMAGES[0]}/chunk-000/file-000.mp4"
    whole = video.read_bytes()
    truncate(video)
    with pytest.raises(FoveaError, match=r"file-000.mp4"):
        open_dataset(dataset_copy).frames(2, keys.IMAGES[0])
    video.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FoveaError, match=r"file-000.mp4 is damaged"):
        _ = open_dataset(dataset_copy).fingerprint
    video.unlink()
    with pytest.raises(FoveaError, match=r"file-000.mp4 is missing"):
        open_dataset(dataset_copy)


def test_damaged_table(dataset_copy):
    truncate(dataset_copy / "data/chunk-000/file-000.parquet")
    with pytest.raises(FoveaError, match=r"file-000.parquet is damaged or was changed"):
        open_dataset(dataset_copy)
    (dataset_copy / "meta/fovea.json").unlink()  # as in a data set that others recorded
    with pytest.raises(FoveaError, match="truncated or damaged"):
        open_dataset(dataset_copy)


def test_damaged_metadata(dataset_copy):
    truncate(dataset_copy / "meta/fovea_episodes.jsonl", 0.8)
    with pytest.raises(FoveaError, match=r"fovea_episodes.jsonl is damaged"):
        open_dataset(dataset_copy)
    record = dataset_copy / "meta/fovea.json"
    whole = record.read_text()
    record.write_text(whole.replace('"seed": 3', '"seed": 7'))
    with pytest.raises(FoveaError, match=r"fovea.json is damaged or was changed"):
        open_dataset(dataset_copy)
    record.unlink()
    with pytest.raises(FoveaError, match=r"fovea_episodes.jsonl is damaged"):
        open_dataset(dataset_copy)
    truncate(dataset_copy / "meta/info.json")
    with pytest.raises(FoveaError, match=r"info.json is not JSON"):
        open_dataset(dataset_copy)


def rewrite(root, key, change):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    rows = table.column(key).to_pylist()
    column = pa.array([change(number, row) for number, row in enumerate(rows)], pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.schema.get_field_index(key), key, column), path)


def test_nan_and_wrong_sizes_in_the_table(dataset_copy):
    (dataset_copy / "meta/fovea.json").unlink()
    rewrite(dataset_copy, "observation.state", lambda n, row: [float("nan"), *row[1:]] if n == 11 else row)
    with pytest.raises(FoveaError, match=r"observation.state is NaN.*episode 1, frame 2"):
        open_dataset(dataset_copy)
    rewrite(dataset_copy, "observation.state", lambda n, row: [0.0] * 8)
    rewrite(dataset_copy, "action", lambda n, row: row[:6])
    with pytest.raises(FoveaError, match="expected action vectors of 7, got 6"):
        open_dataset(dataset_copy)


def test_missing_camera_and_no_dataset(dataset, dataset_root, tmp_path):
    with pytest.raises(FoveaError, match=r"no column 'observation.images.left'"):
        open_dataset(dataset_root, cameras=("observation.images.left",))
    with pytest.raises(FoveaError, match="expected a camera among"):
        dataset.frames(0, "left")
    with pytest.raises(FoveaError, match="found none"):
        open_dataset(tmp_path)


def test_foreign_dataset_without_fovea_files(dataset_copy):
    for name in ("fovea.json", "fovea_episodes.jsonl"):
        (dataset_copy / "meta" / name).unlink()
    opened = open_dataset(dataset_copy)
    assert [episode.split for episode in opened.episodes] == ["train"] * 3
    assert json.dumps(opened.record) == "{}"
