"""`fovea ground` on one real scene."""

import json

import numpy as np
import pytest
from PIL import Image

from fovea.cli import main
from fovea.data.files import locked
from fovea.errors import FoveaError
from fovea.lens.moments import choose_starts
from fovea.pipelines import ground
from fovea.pipelines.look_config import GroundConfig


@pytest.fixture
def one_scene(milk, monkeypatch):
    """Every run sees the scene of `milk`; how many scenes were looked at."""
    looked = []

    def take(starts, sizes, count):
        for start in starts:
            looked.append(start)
            yield milk[:count]

    monkeypatch.setattr(ground, "take_moments", take)
    return looked


def config(folder, **changes):
    return GroundConfig(
        **{"taps": ["out"], "tasks": [7], "scenes": 1, "sheets": 1, "out": folder, "json": True} | changes
    )


def test_a_moment_knows_its_objects_and_shows_them_at_every_size(milk):
    first, later = milk
    assert (first.step, later.step) == (0, 20)
    assert first.targets == {"milk_1"}
    assert first.destinations == {"basket_1"}
    assert set(first.observations) == {32, 128}
    key = "observation.images.image2"
    large, small = (first.observations[side][key].astype(float) for side in (128, 32))
    coarse = large.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.corrcoef(coarse.ravel(), small.ravel())[0, 1] > 0.85  # the same picture
    basket = first.mask("agentview", ["basket_1"])
    assert 0.02 < basket.mean() < 0.1
    assert not (first.mask("agentview", ["milk_1"]) & basket).any()
    moved = np.abs(first.picture("wrist").astype(int) - later.picture("wrist").astype(int))
    assert moved.mean() > 2  # the expert's hand went somewhere


def test_the_encoder_that_ships_points_at_the_milk_and_the_basket(one_scene, tmp_path):
    result = ground.run(config(tmp_path, holdout=["milk"]))
    (tiny,) = result["variants"]
    for camera in ("agentview", "wrist"):
        groups = tiny["cameras"][camera]["groups"]
        assert groups["target, unseen"]["right"] == groups["destination, seen"]["right"] == 1
        assert groups["target"]["mass"] > 20 * groups["target"]["area"]
    assert result["unseen"] == ["milk"]
    assert json.loads((tmp_path / "ground.json").read_text()) == result
    with Image.open(result["sheets"][0]) as sheet:
        width, height = sheet.size
    assert 4 * 176 < width < 5 * 176  # the scene and one variant, from two cameras
    assert 2 * 176 < height < 3 * 176  # two nouns


def test_a_run_goes_on_where_it_stopped_and_asks_nothing_twice(one_scene, tmp_path):
    first = ground.run(config(tmp_path))
    answers = tmp_path / "answers.jsonl"
    answers.write_text(answers.read_text() + '{"key": "half a li')
    assert ground.run(config(tmp_path)) == first
    assert len(one_scene) == 1
    both = ground.run(config(tmp_path, taps=["out", "attn_qk"]))
    assert both["variants"][0] == first["variants"][0]
    assert len(one_scene) == 2
    assert ground.run(config(tmp_path, taps=["out", "attn_qk"])) == both
    assert len(one_scene) == 2


def test_a_damaged_answer_is_named_and_a_second_run_beside_the_first_refused(one_scene, tmp_path):
    ground.run(config(tmp_path))
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"key": "half a li\n' + answers.read_text())
    with pytest.raises(FoveaError, match=r"answers\.jsonl, line 1: expected what was found at a scene"):
        ground.run(config(tmp_path))
    with locked(tmp_path / ".lock"), pytest.raises(FoveaError, match="another process is working"):
        ground.run(config(tmp_path))


def test_more_moments_ask_more(one_scene, tmp_path):
    result = ground.run(config(tmp_path, moments=2))
    assert result["variants"][0]["cameras"]["agentview"]["all"]["asked"] == 4


def test_the_verb_prints_a_table_or_the_numbers(one_scene, tmp_path, capsys):
    line = ["ground", "--taps", "out", "--tasks", "7", "--scenes", "1", "--out", str(tmp_path)]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "| tiny | out | agentview | target | 100% (1/1) |" in out
    assert "tiny (out): tau 0.069 (agentview)" in out
    assert "Sheets:" in out
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scenes"] == 1


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--taps attn", "attn_qk, attn_qq, out"),
        ("--encoders tny", "tiny"),
        ("--holdout milkk", "milk"),
        ("--holdout milk --data somewhere", "one of them"),
        ("--scenes 0", "scenes"),
        ("--tasks 0,3,0", "tasks: expected each once"),
        ("--scenes 51 --tasks 0", "50 official initial states"),
        ("--suite libero_objct", "libero_object"),
        ("--data nowhere --tasks 0", "nowhere"),
        ("--checkpoints nowhere --tasks 0", "nowhere"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(line, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["ground", *line.split()]) == 2
    assert hint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_starts_are_those_that_collection_leaves_alone_or_drawn_anew():
    official = choose_starts(["libero_object"], [0, 3], 2, "official", 0)
    assert [(s.task_id, s.init_state) for s in official] == [(0, 30), (0, 31), (3, 30), (3, 31)]
    assert choose_starts(["libero_object"], [0], 25, "official", 0)[0].init_state == 25
    one, two = choose_starts(["libero_object"], [0], 2, "drawn", 5)
    assert one.layout == "drawn"
    assert one.seed != two.seed
    with pytest.raises(FoveaError, match="tasks 0 to 9"):
        choose_starts(["libero_object"], [10], 1, "official", 0)
