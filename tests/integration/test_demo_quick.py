"""`fovea demo --quick`, as a user runs it: killed half-way, started again, and its report read."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "fovea", "demo", "--quick", "--out", str(out)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder and last output of a quick demo that was killed once while it collected."""
    out = tmp_path_factory.mktemp("demo") / "run"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    first = subprocess.Popen(command(out), env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    staging = out / ".data.staging"
    while not list(staging.glob("episode_*.npz")) and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in staging.glob("episode_*.npz")}
    assert kept, "nothing was collected before the kill"
    second = subprocess.run(
        command(out), env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert second.returncode == 0, second.stderr
    return out, second.stdout, len(kept)


def test_the_report_says_what_was_run(finished):
    out, printed, _ = finished
    report = json.loads((out / "report.json").read_text())
    assert report["quick"] is True
    assert report["success"]["episodes"] == 2
    low, high = report["success"]["interval"]
    assert 0 <= low <= report["success"]["rate"] <= high <= 1
    assert report["wall_seconds"] > 0
    assert {"configuration", "versions", "stages", "tasks", "videos"} <= set(report)
    assert (out / "report.html").read_text().count("data:video/mp4") == len(report["videos"]) > 0
    assert "report.html" in printed


def test_it_went_on_where_it_was_killed(finished):
    out, _, kept = finished
    lines = (out / "data" / "meta" / "fovea_episodes.jsonl").read_text().splitlines()
    assert len(lines) == 3 >= kept
    assert list(json.loads((out / "stages.json").read_text())["seconds"]) == [
        "collect",
        "cache",
        "train",
        "evaluate",
        "report",
    ]


def test_running_it_again_changes_nothing_but_the_page(finished):
    out, _, _ = finished
    before = (out / "evaluation" / "episodes.jsonl").read_text()
    again = subprocess.run(command(out), capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert (out / "evaluation" / "episodes.jsonl").read_text() == before


def test_another_demo_in_the_same_folder_is_refused_with_exit_code_2(finished):
    out, _, _ = finished
    other = subprocess.run(
        [*command(out), "--seed", "7"], capture_output=True, text=True, timeout=300, check=False
    )
    assert other.returncode == 2
    assert "seed" in other.stderr
