import errno
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from fovea.data.files import append_line
from fovea.data.staging import StagedEpisodes, episode_path, write_episode
from fovea.errors import FoveaError

HEADER = {
    "start": {"suite": "libero_object", "task_id": 0, "init_state": 3},
    "task": "pick it up",
    "split": "train",
}


def episode(n=5, **changes):
    rng = np.random.default_rng(n)
    values = {
        "images": rng.integers(0, 255, (n, 2, 16, 16, 3), dtype=np.uint8),
        "state": rng.normal(size=(n, 8)).astype(np.float32),
        "action": rng.uniform(-1, 1, (n, 7)).astype(np.float32),
        "header": HEADER,
    }
    return values | changes


def test_round_trip_in_order(tmp_path):
    for index, n in ((7, 4), (2, 6)):
        write_episode(tmp_path, index, **episode(n))
    staged = StagedEpisodes(tmp_path)
    assert staged.indices == [2, 7]
    assert 7 in staged
    assert 3 not in staged
    read = staged.read(7)
    for key in ("images", "state", "action"):
        np.testing.assert_array_equal(getattr(read, key), episode(4)[key])
    assert read.header == HEADER
    assert staged.header(2)["start"]["init_state"] == 3
    assert staged.validate() == []


def test_missing_folder_is_empty(tmp_path):
    assert len(StagedEpisodes(tmp_path / "nothing")) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": np.zeros((5, 6))}, r"action \(5, 7\)"),
        ({"state": np.full((5, 8), np.nan)}, "finite state"),
        ({"action": np.full((5, 7), 1.5)}, r"\[-1, 1\]"),
        ({"images": np.zeros((5, 2, 16, 16, 3), np.float32)}, "uint8"),
        ({"images": np.zeros((4, 2, 16, 16, 3), np.uint8)}, "as many images"),
        ({"header": HEADER | {"split": "test"}}, "split"),
        ({"header": {"task": "x", "split": "val"}}, "start"),
        ({"header": HEADER | {"label_from": 5}}, "label_from"),
    ],
)
def test_bad_episode_is_refused_and_leaves_nothing(tmp_path, changes, message):
    with pytest.raises(FoveaError, match=message):
        write_episode(tmp_path, 0, **episode(**changes))
    assert list(tmp_path.iterdir()) == []


def test_truncated_and_flipped_files_are_found(tmp_path):
    for index in range(3):
        write_episode(tmp_path, index, **episode())
    whole = episode_path(tmp_path, 0).read_bytes()
    episode_path(tmp_path, 0).write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[1000] ^= 4
    episode_path(tmp_path, 1).write_bytes(flipped)
    problems = StagedEpisodes(tmp_path).validate()
    assert len(problems) == 2
    assert "collect again" in problems[0]
    with pytest.raises(FoveaError, match="collect it again"):
        StagedEpisodes(tmp_path).read(9)


WRITER = """
import sys
import numpy as np
from fovea.data.staging import write_episode
pictures, header = np.zeros((100, 2, 64, 64, 3), np.uint8), {"start": {}, "task": "go", "split": "train"}
for index in range(10**6):
    write_episode(sys.argv[1], index % 50, images=pictures, state=np.zeros((100, 8)), action=np.zeros((100, 7)),
                  header=header)
"""


def test_a_killed_writer_leaves_whole_episodes_only(tmp_path):
    staged = StagedEpisodes(tmp_path)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) as writer:
        while len(staged) < 4:
            assert writer.poll() is None
            time.sleep(0.01)
        writer.kill()
    assert staged.validate() == []


def test_a_full_disk_is_named_and_nothing_half_written_appears(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FoveaError, match=rf"the disk of {tmp_path} is full; free some space"):
        write_episode(tmp_path, 0, **episode())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FoveaError, match="is full"):
        append_line(tmp_path / "episodes.jsonl", "{}")
