"""What a report accepts, keeps and refuses."""

import base64
import json

import numpy as np
import pytest

from fovea.cli import main
from fovea.errors import FoveaError
from fovea.evaluation.charts import Series, line_chart, log_ticks, thin, ticks
from fovea.evaluation.report import write_report

SUCCESS = {"successes": 17, "episodes": 20}
CLIP = base64.b64encode(b"not looked into").decode()


def test_a_title_is_enough(tmp_path):
    page = write_report({"title": "Nothing yet"}, tmp_path).read_text()
    assert "<h1>Nothing yet</h1>" in page
    assert "<section" not in page
    assert json.loads((tmp_path / "report.json").read_text()) == {"title": "Nothing yet"}


def test_rate_and_interval_come_from_the_counts(tmp_path):
    page = write_report({"title": "t", "success": SUCCESS}, tmp_path).read_text()
    kept = json.loads((tmp_path / "report.json").read_text())["success"]
    assert kept == SUCCESS | {"rate": 0.85, "interval": [0.6396, 0.9476]}
    assert "85&nbsp;%" in page
    assert "between 64&nbsp;% and 95&nbsp;%" in page


def test_films_promise_maps_only_where_they_have_some(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"a film")
    video = {"caption": "a task", "path": str(tmp_path / "film.mp4")}
    plain = write_report({"title": "t", "videos": [video]}, tmp_path / "plain").read_text()
    looking = write_report({"title": "t", "videos": [video | {"maps": True}]}, tmp_path / "maps").read_text()
    assert "Where it looks" in looking
    assert "patches match the words" in looking
    assert "Films" in plain
    assert "patches match the words" not in plain


def test_numpy_numbers_paths_and_nan_are_kept_as_json(tmp_path):
    data = {
        "title": "t",
        "success": {"successes": np.int64(1), "episodes": np.int64(2), "rate": np.float32(0.5)},
        "configuration": {"out": tmp_path / "x", "clip": float("inf"), "tasks": (0, 1)},
    }
    write_report(data, tmp_path)
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["success"]["rate"] == 0.5
    assert kept["configuration"] == {"out": str(tmp_path / "x"), "clip": "inf", "tasks": [0, 1]}


def test_words_are_shown_not_obeyed(tmp_path):
    evil = "<script>alert(1)</script> $style &amp;"
    data = {
        "title": evil,
        "summary": evil,
        "tasks": [SUCCESS | {"name": evil}],
        "diagnostics": {evil: evil},
        "limits": [evil],
    }
    page = write_report(data, tmp_path).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; $style &amp;amp;") == 7  # the title stands twice


def test_several_suites_have_a_table_and_a_single_one_has_none(tmp_path):
    suites = [SUCCESS | {"name": name} for name in ("libero_goal", "libero_10")]
    assert "Suite by suite" in write_report({"title": "t", "suites": suites}, tmp_path).read_text()
    assert "Suite by suite" not in write_report({"title": "t", "suites": suites[:1]}, tmp_path).read_text()


def test_the_same_page_comes_out_of_its_record(tmp_path, capsys):
    (tmp_path / "films").mkdir()
    film = tmp_path / "films" / "a.mp4"
    film.write_bytes(b"one")
    data = {
        "title": "t",
        "success": SUCCESS,
        "videos": [
            {"path": film, "caption": "first", "success": True},
            {"bytes_b64": CLIP, "caption": "second"},
        ],
    }
    page = write_report(data, tmp_path / "run")
    before = page.read_text()
    record = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [video["path"] for video in record["videos"]] == ["videos/a.mp4", "videos/episode-2.mp4"]
    assert (tmp_path / "run" / "videos" / "a.mp4").read_bytes() == b"one"
    assert CLIP not in json.dumps(record)
    page.unlink()
    assert main(["report", "--run", str(tmp_path / "run")]) == 0
    assert page.read_text() == before
    assert (
        main(["report", "--run", str(tmp_path / "run" / "report.json"), "--out", str(tmp_path / "copy")]) == 0
    )
    assert (tmp_path / "copy" / "report.html").read_text() == before
    assert str(tmp_path / "copy" / "report.html") in capsys.readouterr().out


def test_videos_of_one_name_are_both_kept(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "film.webm").write_bytes(folder.encode())
    videos = [{"path": f"{folder}/film.webm", "caption": folder} for folder in ("a", "b")]
    write_report({"title": "t", "videos": videos}, tmp_path / "out", base=tmp_path)
    assert {path.read_bytes() for path in (tmp_path / "out" / "videos").iterdir()} == {b"a", b"b"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"title": None}, "title: expected text"),
        ({"quick": 1}, "quick: expected true or false, got 1"),
        ({"summary": ["a"]}, "summary: expected text"),
        ({"success": {"successes": 21, "episodes": 20}}, r"success.successes: expected 0 \.\.\. 20"),
        ({"success": SUCCESS | {"rate": 0.95}}, r"success.rate: expected 0.85 \(17 of 20\), got 0.95"),
        ({"success": SUCCESS | {"interval": [64, 95]}}, "success.interval: expected"),
        ({"success": SUCCESS | {"interval": [0.0, 0.1]}}, "success.interval: expected Wilson's"),
        ({"success": {"successes": True, "episodes": 1}}, "successes: expected a whole number, got True"),
        ({"tasks": {"a": 1}}, "tasks: expected a list"),
        ({"suites": [SUCCESS | {"name": "a", "rate": 0.1}]}, r"suites\[0\].rate"),
        ({"tasks": [SUCCESS]}, r"tasks\[0\].name: expected text, got None"),
        ({"curve": {"train": [[0, 1.0], [1, float("nan")]]}}, r"curve.train\[1\]: expected .* finite"),
        ({"curve": {"validation": [3]}}, r"curve.validation\[0\]: expected \[step, loss\]"),
        ({"stages": [{"name": "a", "seconds": "3"}]}, r"stages\[0\].seconds: expected a finite number"),
        ({"stages": [{"name": "a", "seconds": -3}]}, "seconds >= 0"),
        ({"videos": [{"caption": "a"}]}, r"videos\[0\]: expected either path or bytes_b64"),
        ({"videos": [{"caption": "a", "path": "none.mp4"}]}, r"videos\[0\]: expected a video at .*none.mp4"),
        ({"videos": [{"caption": "a", "path": "none.gif"}]}, r"a file .mp4 or .webm, got none.gif"),
        ({"videos": [{"caption": "a", "bytes_b64": "?"}]}, "expected base64"),
        (
            {"videos": [{"caption": "a", "bytes_b64": CLIP, "mime": "text/html"}]},
            "mime: expected video/mp4 or",
        ),
        ({"diagnostics": {"a": {"b": 1}}}, "diagnostics.a: expected text or a number"),
        ({"limits": "none"}, "limits: expected a list"),
        ({"commands": [{"what": "a"}]}, r"commands\[0\].command: expected text"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_nothing_is_written(tmp_path, wrong, message):
    with pytest.raises(FoveaError, match=message):
        write_report({"title": "t"} | wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "hint"), [(None, "found none"), ("{", "is not JSON"), ("[]", "got list"), ("{}", "title")]
)
def test_a_record_that_is_no_report_is_refused(tmp_path, content, hint, capsys):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert main(["report", "--run", str(tmp_path)]) == 2
    assert hint in capsys.readouterr().err


def test_ticks_are_round_and_inside():
    assert ticks(0, 3000, 6) == [0, 500, 1000, 1500, 2000, 2500, 3000]
    assert ticks(0, 0.37, 5) == [0, 0.1, 0.2, 0.3]
    assert ticks(7, 7, 5) == [7]
    assert log_ticks(0.03, 1.2) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1.0])


@pytest.mark.parametrize(
    "points", [[(0, 1.0)], [(0, 0.0), (5, 0.0)], [(0, 100.0), (9, 0.01)], [(1, -2.0), (2, 3.0)]]
)
def test_a_curve_of_any_range_stays_inside_its_chart(points):
    svg = line_chart([Series("loss", "train", points)], title="t", x_label="step", y_label="loss")
    assert "nan" not in svg
    drawn = svg.partition('<polyline class="line train" points="')[2].partition('"')[0]
    for pair in drawn.split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 760
        assert 0 <= y <= 300


def test_thinning_averages_neighbours():
    assert thin([(0, 1.0), (1, 3.0), (2, 5.0)], most=2) == ([(0.5, 2.0), (2.0, 5.0)], 2)
    assert thin([(0, 1.0)], most=2) == ([(0, 1.0)], 1)
