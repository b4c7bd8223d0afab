"""The whole study on toys: collection and closed loop are played by stand-ins, everything between is real."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "grafting"))
from toy_graft import LARGER, SIZES, make_suite

from fovea.errors import FoveaError
from fovea.grafting import native
from fovea.grafting.settings import Recipe, SampleSettings, ScoreSettings
from fovea.pipelines import bench_graft, graft_study
from fovea.pipelines.ef_vla_study import EFVLAStudyConfig
from fovea.pipelines.graft_study import GraftStudyConfig
from fovea.training.config import TrainConfig


@pytest.fixture
def stand_ins(monkeypatch):
    """Says what was collected and played."""
    calls: dict[str, list[Any]] = {"collected": [], "played": []}

    def collect(config):
        calls["collected"].append(config)
        if not config.out.exists():
            make_suite(config.out, first=10 * len(calls["collected"]))
        return {"out": str(config.out), "episodes": 6, "frames": 42}

    def evaluate(actor, starts, out, **options):
        calls["played"].append((actor.identity, len(starts)))
        won = actor.identity.startswith("trained")
        return [{"start": start.asdict(), "success": won and start.init_state != 30} for start in starts]

    monkeypatch.setattr("fovea.sim.collect.run", collect)
    monkeypatch.setattr("fovea.evaluation.closed_loop.evaluate", evaluate)
    monkeypatch.setitem(native.SIZES, "smolvla-small", SIZES)
    monkeypatch.setitem(native.SIZES, "smolvla-base", LARGER)
    return calls


def make_config(folder: Path, **changes: Any) -> GraftStudyConfig:
    return GraftStudyConfig(
        scale="smoke",
        out=folder / "out",
        results=folder / "results" / "grafting.md",
        encoders=["tiny", "random/tiny"],
        backbone_steps=[2, 2],
        suites=["libero_spatial"],
        episodes=5,
        seeds=1,
        samples=SampleSettings(train=8, held_out=4),
        recipe=Recipe(steps=1, batch_size=2, lora_rank=1),
        score=ScoreSettings(euler_steps=1, flow_draws=1),
        backbone=TrainConfig(batch_size=2, validation_windows=2, prefetch=1),
        workers=1,
        **changes,
    )


def test_a_study_writes_its_page_goes_on_and_refuses_other_settings(stand_ins, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))
    found = graft_study.run(make_config(tmp_path))
    page = (tmp_path / "results" / "grafting.md").read_text()
    assert [config.suite for config in stand_ins["collected"]] == ["libero_spatial"]
    assert all(config.init_states == [0, 29] for config in stand_ins["collected"])
    assert [count for _, count in stand_ins["played"]] == [5, 5, 5, 5]
    assert found["closed_loop"]["smolvla-small"]["trained"]["successes"] == 4
    assert found["closed_loop"]["smolvla-small"]["better"]
    assert [b["name"] for b in found["backbones"]] == ["smolvla-small", "smolvla-base"]
    for piece in ("A smoke run", "4/5 against untrained 0/5", found["verdict"], "grafting/rank-flow.svg"):
        assert piece in page
    assert (tmp_path / "results" / "grafting" / "rank-flow.svg").is_file()
    again = graft_study.run(make_config(tmp_path))
    assert again["tables"] == found["tables"]
    assert again["stage_seconds"] == found["stage_seconds"]
    with pytest.raises(FoveaError, match="demonstrations"):
        graft_study.run(make_config(tmp_path, demonstrations=9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": ["tinny"]}, "did you mean 'tiny'"),
        ({"device": "cuda:7"}, "expected a device of this machine"),
        ({"backbones": ["smolvla-libero"], "backbone_steps": [1]}, "smolvla-libero"),
        ({"suites": ["libero_spatial", "libero_objct"]}, "libero_object"),
        ({"tasks": [10]}, "tasks 0 to 9"),
    ],
)
def test_what_does_not_exist_is_named_before_anything_is_collected(changes, message, stand_ins, tmp_path):
    with pytest.raises(FoveaError, match=message):
        graft_study.run(GraftStudyConfig(scale="smoke", out=tmp_path / "out", **changes))
    assert stand_ins["collected"] == []
    assert not (tmp_path / "out").exists()


def test_a_page_says_what_was_asked_and_a_smoke_run_leaves_a_study_s_page_alone():
    config = GraftStudyConfig(scale="smoke", recipe=Recipe(steps=3), seeds=3)
    assert config.results == config.out / "grafting.md"
    found = {"stage_seconds": {"a": 60.0}, "commit": "abc", "collected": {}, "closed_loop": {}}
    said = graft_study.head(config, found)[0]
    assert said.startswith("`fovea reproduce graft --scale smoke --seeds 3 --recipe.steps 3")
    assert GraftStudyConfig().results == Path("results/grafting.md")
    assert EFVLAStudyConfig(scale="smoke").results == Path("outputs/ef-vla/ef_vla.md")


def test_the_bench_counts_pictures_and_shows_the_saving(tmp_path):
    config = bench_graft.BenchGraftConfig(
        make_suite(tmp_path / "suite"), ["random/tiny"], steps=4, batch_size=4, train=16, held_out=8, side=2
    )
    result = bench_graft.run(config)
    row = result["rows"][0]
    assert (result["runs"], row["pictures_a_run"], row["pictures_once"]) == (6, 2 * (4 * 4 + 8), 2 * 24)
    assert row["saving"] == pytest.approx(row["every_run"] / (row["build"] + row["read"]), rel=0.05)
    assert "**all 6 runs**" in bench_graft.table(result)
    bench_graft.write(result, tmp_path / "page.md")
    assert bench_graft.table(result) in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone_steps": [5]}, "one number for each of"),
        ({"workers": 0}, "--workers"),
        ({"encoders": ["tiny", "tiny"]}, "--encoders: expected different names"),
        ({"seeds": 0}, "--seeds of at least 1"),
        ({"state_dropout": 1.0}, "--state_dropout: expected a share"),
        ({"episodes": 25}, "--episodes: expected 0 to 20"),
        ({"episodes": -1}, "--episodes: expected 0 to 20"),
        ({"seeds": 1, "control_seeds": 2}, "--control_seeds: expected at most --seeds"),
    ],
)
def test_senseless_settings_are_named(changes, message):
    with pytest.raises(FoveaError, match=message):
        GraftStudyConfig(**changes)
