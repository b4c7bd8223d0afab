"""A whole study on toys: every cell once, going on after a kill, the same numbers whatever the processes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from toy_graft import LARGER, make_backbone

from fovea.encoders import registry
from fovea.errors import FoveaError
from fovea.grafting import fan_out, study
from fovea.grafting.cells import Cell, Plan
from fovea.grafting.findings import find
from fovea.grafting.pages import write_pages
from fovea.grafting.settings import Recipe, SampleSettings, ScoreSettings
from fovea.grafting.study import StudySettings, run_study


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Two backbones of different size."""
    root = tmp_path_factory.mktemp("backbones")
    make_backbone(root / "small", [data / "left", data / "right"])
    make_backbone(root / "large", [data / "left", data / "right"], LARGER, seed=1)
    return root


PLAN = Plan(["large", "small"], ["random/tiny", "tiny"], ["left"], seeds=2, pooling=[2])


@pytest.fixture(scope="module")
def settings(data, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return StudySettings(
        folder / "out",
        data,
        trained,
        SampleSettings(train=12, held_out=6),
        Recipe(steps=2, batch_size=3, warmup_steps=1, lora_rank=1),
        ScoreSettings(euler_steps=2, flow_draws=1, batch_size=6),
        cache=folder / "cache",
        workers=1,
    )


@pytest.fixture(scope="module")
def done(settings):
    return run_study(PLAN, settings, progress=False)


def test_every_cell_of_the_plan_has_its_record(done):
    cells = [Cell(**record["cell"]) for record in done["records"]]
    assert cells == PLAN.cells()
    for backbone in ("small", "large"):
        own = [cell.label for cell in cells if cell.backbone == backbone and cell.suite == "left"]
        assert own.count("tiny") == own.count("random/tiny") == own.count("native, wrapped") == 2
        assert {
            "native",
            "native + LoRA",
            "zero embedding",
            "random/tiny, zero image",
            "random/tiny, 2 x 2 tokens",
            "tiny, shuffled pictures",
        } <= set(own)


def test_all_candidates_are_scored_on_the_same_held_out_episodes(done, data):
    for suite in PLAN.suites:
        own = [record for record in done["records"] if record["cell"]["suite"] == suite]
        assert len({tuple(record["episodes"]) for record in own}) == 1
        assert set(own[0]["episodes"]) == {2, 5}
        assert len({tuple(record["scores"]["zero_action"]) for record in own}) == 1


def test_seeds_and_encoders_differ_and_untrained_controls_do_not_train(done):
    grafts = [r for r in done["records"] if Cell(**r["cell"]).is_candidate]
    assert len({tuple(r["scores"]["mse"]) for r in grafts}) == len(grafts)
    for record in done["records"]:
        trains = Cell(**record["cell"]).trains
        assert bool(record["losses"]) == trains
        assert (record["trained"] > 0) == trains


def test_a_finished_study_runs_nothing_again(done, settings, monkeypatch):
    def refuse(job):
        raise AssertionError(f"{job.cell} ran again")

    monkeypatch.setattr(fan_out, "_run_job", refuse)
    assert run_study(PLAN, settings, progress=False)["records"] == done["records"]


def test_a_killed_study_goes_on_where_it_was(done, settings, monkeypatch, tmp_path):
    folder = settings.out / "runs"
    victim = done["records"][1]
    (folder / f"{victim['id']}.json").unlink()
    ran = []
    original = fan_out._run_job
    monkeypatch.setattr(fan_out, "_run_job", lambda job: ran.append(job.cell) or original(job))
    again = run_study(PLAN, settings, progress=False)["records"][1]
    assert ran == [Cell(**victim["cell"])]
    assert {**again, "seconds": 0} == {**victim, "seconds": 0}


def test_another_budget_is_another_outcome(done, settings):
    from dataclasses import replace

    plan = Plan(["small"], ["tiny"], ["left"], seeds=1, controls=[])
    other = run_study(plan, replace(settings, recipe=Recipe(steps=3, batch_size=3)), progress=False)
    assert other["records"][0]["id"] not in {record["id"] for record in done["records"]}


def test_pages_and_numbers_tell_the_same(done, tmp_path):
    found = find(done, draws=200)
    page = write_pages(found, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert [b["name"] for b in found["backbones"]] == ["small", "large"]
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == found["verdict"]
    for piece in (found["verdict"], found["caveat"]):
        assert piece in text
    assert "<svg" in page.read_text()
    for figure in ("ranks-left", "rank-flow"):
        assert (tmp_path / "figures" / f"{figure}.svg").is_file()
        assert f"figures/{figure}.svg" in text
    row = found["tables"]["small"]["left"]["rows"][0]
    assert f"| 1 = | {row['encoder']} | {row['mean']:.4g} |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbones": ["smal"]}, "found no checkpoint.*'smal'.*smolvla"),
        ({"suites": ["middle"]}, "fovea collect --suite middle"),
        ({"encoders": ["tinny"]}, "did you mean 'tiny'"),
    ],
)
def test_what_is_missing_is_named(change, message, settings):
    plan = Plan(**{"backbones": ["small"], "encoders": ["tiny"], "suites": ["left"], "seeds": 1, **change})
    with pytest.raises(FoveaError, match=message):
        run_study(plan, settings, progress=False)


def test_one_tokenizer_for_two_kinds_of_backbones_is_refused_before_one_is_loaded(
    settings, trained, tmp_path, monkeypatch
):
    PI05Config(device="cpu").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(study, "load_backbone", None)
    plan = Plan(["small", str(tmp_path)], ["tiny"], ["left"], seeds=1)
    both = replace(settings, tokenizer=str(trained / "small" / "vlm"))
    with pytest.raises(FoveaError, match=r"backbones of one kind, .* got pi05 and smolvla"):
        run_study(plan, both, progress=False)


def test_workers_that_stand_elsewhere_find_backbones_and_tokenizers_that_were_named_from_here(
    settings, trained, monkeypatch
):
    class Asked(Exception):
        pass

    def ask(jobs, *_, **__):
        places.extend(job.backbone for job in jobs)
        raise Asked

    places = []
    monkeypatch.chdir(trained)
    monkeypatch.setattr(study, "_run_missing", ask)
    plan = Plan(["./small"], ["tiny"], ["left"], seeds=1)
    with pytest.raises(Asked):
        run_study(plan, replace(settings, tokenizer="small/vlm"), progress=False)
    assert {Path(place.name) for place in places} <= set((trained / "small").glob("**"))
    assert {place.tokenizer for place in places} == {str(trained / "small" / "vlm")}


def test_an_encoder_with_an_oblong_grid_is_refused_before_anything_runs(settings, monkeypatch):
    from toy_graft import Columns

    monkeypatch.setattr(study, "create_encoder_of", lambda name: Columns((8, 4)).freeze())
    with pytest.raises(FoveaError, match="encoder columns to give a square grid of patches, got 8 x 4"):
        run_study(Plan(["small"], ["columns"], ["left"], seeds=1), settings, progress=False)


def test_registry_knows_the_encoders_of_the_study():
    assert {"efficientnet_lite0", "random", "tiny"} <= set(registry.list_vision_encoders())
