"""Data sets that are not ours, or were changed: what their metadata says is believed only where it can be."""

import json

import pytest

from fovea.data.dataset import open_dataset
from fovea.data.windows import WindowSource
from fovea.errors import FoveaError


@pytest.fixture
def foreign(dataset_copy):
    """A copy without the record that seals it."""
    (dataset_copy / "meta/fovea.json").unlink()
    return dataset_copy


def change_json(path, change):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def change_table(path, change):
    """Rewrite a parquet file from its rows as Python values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist(change(rows) or rows), path)


def episodes_table(root):
    return next(root.glob("meta/episodes/**/*.parquet"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda info: [info], "expected an object in meta/info.json, got list"),
        (lambda info: info.pop("features") and None, "expected features and a video_path"),
        (lambda info: info.update(fps=0), "expected frames a second above 0 as fps in meta/info.json, got 0"),
        (lambda info: info.update(fps=None), "as fps in meta/info.json, got None"),
        (
            lambda info: info["features"]["action"].pop("shape") and None,
            "expected metadata as LeRobot v3 writes it",
        ),
    ],
)
def test_an_info_file_that_makes_no_sense_is_refused(foreign, change, said):
    change_json(foreign / "meta/info.json", change)
    with pytest.raises(FoveaError, match=said):
        open_dataset(foreign)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stats: stats.pop("action") and None, "expected statistics of action, found none"),
        (
            lambda stats: stats["action"].update(mean=None),
            "expected 7 finite numbers as mean of action, got None",
        ),
        (lambda stats: stats["action"].update(std=["a"] * 7), "expected numbers as std of action"),
        (lambda stats: stats["observation.state"].update(q99=[0.0] * 7), "expected 8 finite numbers as q99"),
        (lambda stats: stats["action"].update(min=[float("nan")] * 7), "expected 7 finite numbers as min"),
        (lambda stats: [1], "expected statistics by column"),
    ],
)
def test_statistics_that_would_leave_actions_unscaled_are_refused(foreign, change, said):
    change_json(foreign / "meta/stats.json", change)
    with pytest.raises(FoveaError, match=said):
        open_dataset(foreign)


def test_sentences_in_a_column_of_another_name_are_not_taken_for_none(foreign):
    change_table(
        foreign / "meta/tasks.parquet",
        lambda rows: [{"task_index": row["task_index"], "words": f"task {n}"} for n, row in enumerate(rows)],
    )
    with pytest.raises(FoveaError, match="expected columns task_index and task"):
        open_dataset(foreign)


def test_a_task_that_no_sentence_belongs_to_is_named(foreign):
    change_table(foreign / "meta/tasks.parquet", lambda rows: rows[:1])
    with pytest.raises(
        FoveaError, match=r"episode \d has task number \d, which meta/tasks.parquet does not know"
    ):
        open_dataset(foreign)


def test_a_gap_in_the_numbers_of_episodes_is_named(foreign):
    change_table(episodes_table(foreign), lambda rows: [row for row in rows if row["episode_index"] != 1])
    with pytest.raises(FoveaError, match=r"got 2 in place of 1; lerobot-edit-dataset numbers them anew"):
        open_dataset(foreign)


def test_vectors_of_different_lengths_are_not_run_together(foreign):
    def shift(rows):
        for number, change in ((0, lambda row: [*row, 0.0]), (1, lambda row: row[:-1])):
            rows[number]["action"] = change(rows[number]["action"])

    change_table(foreign / "data/chunk-000/file-000.parquet", shift)
    with pytest.raises(FoveaError, match="expected action vectors of 7, got 6, 8"):
        open_dataset(foreign)


@pytest.mark.parametrize("wrong", [10_000, -5, "3", True, None])
def test_actions_must_count_from_a_step_of_their_episode(foreign, wrong):
    path = foreign / "meta/fovea_episodes.jsonl"
    lines = [json.loads(line) | {"label_from": wrong} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        FoveaError, match=r"expected a label_from of episode 0 in 0\.\.\d+ \(its steps\), got"
    ):
        open_dataset(foreign)


def test_other_pictures_of_the_same_files_are_another_data_set(foreign):
    """Features that were cached of one must not be taken for those of the other."""
    before = open_dataset(foreign)
    assert open_dataset(foreign).fingerprint == before.fingerprint

    def one_later(rows):
        for row in rows:
            for name in row:
                if name.endswith("from_timestamp") and row["episode_index"] == 1:
                    row[name] += 0.05

    change_table(episodes_table(foreign), one_later)
    after = open_dataset(foreign)
    camera = before.cameras[0]
    assert (before.frames(1, camera)[1] == after.frames(1, camera)[0]).all()
    assert after.fingerprint != before.fingerprint


def test_other_instructions_are_other_windows(foreign):
    """A run that was started with one goes on with the same only."""
    before = WindowSource(open_dataset(foreign)).describe()
    assert WindowSource(open_dataset(foreign)).describe() == before

    def reword(rows):
        name = "task" if "task" in rows[0] else "__index_level_0__"
        rows[0][name] = "do something else"

    change_table(foreign / "meta/tasks.parquet", reword)
    after = WindowSource(open_dataset(foreign)).describe()
    assert {name for name in before if before[name] != after[name]} == {"labels"}
