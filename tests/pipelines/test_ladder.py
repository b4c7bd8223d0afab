"""Studies of methods x seeds: what runs when, what counts as done, and what the page says about it."""

import json
import shlex
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import psutil
import pytest
from scipy import stats

from fovea.encoders import create_encoder
from fovea.errors import FoveaError
from fovea.pipelines import ladder
from fovea.pipelines.ef_vla_page import page
from fovea.pipelines.ef_vla_study import METHODS, EFVLAStudyConfig
from fovea.pipelines.focus_vla_page import curves
from fovea.pipelines.focus_vla_page import page as focus_page
from fovea.pipelines.focus_vla_study import CONTROLS, FocusVLAStudyConfig
from fovea.pipelines.ladder import cells, demonstrations, release
from fovea.pipelines.ladder_compare import loss_and_success, over_seeds, scatter
from fovea.pipelines.ladder_tables import cell, ending_of, success_table, summary, where_it_fails
from fovea.pipelines.study import run
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy


def record(task, success, right=True):
    return {
        "start": {"suite": "libero_goal", "task_id": task},
        "instruction": "put the bowl on the plate",
        "success": success,
        "steps": 90,
        "first_lifted": {"right": right} if success else None,
        "first_close": {"right": right, "distance": 0.02, "target_distance": 0.02 if right else 0.3},
        "final": {"gripper_to_target": 0.1, "target_to_place": 0.2},
        "seconds": 2.0,
    }


def outcome(method, seed, won, of, test="libero_goal"):
    return {
        "method": method,
        "group": "",
        "seed": seed,
        "commit": "abc1234",
        "mujoco": "3.3.7",
        "training": {"steps": 20, "seconds": 60.0, "loss": 0.5, "validation_loss": 0.6},
        "tests": {test: [record(n, n < won) for n in range(of)]},
        "seconds": 120.0,
    }


@pytest.fixture
def config(tmp_path):
    return EFVLAStudyConfig(
        out=tmp_path / "study", data=tmp_path / "data", results=tmp_path / "page.md", episodes=1
    )


def test_every_method_has_one_seed_before_any_has_two(config):
    order = list(dict.fromkeys((c.method.name, c.seed) for c in config.cells()))
    assert order == [(name, seed) for seed in (0, 1) for name in METHODS]
    learned = {
        m: [c.method.group for c in config.cells() if (c.method.name, c.seed) == (m, 1)] for m in METHODS
    }
    assert learned["LF-VLA"] == list(config.suites)
    assert learned["EF-VLA, large encoder"] == ["libero_object", "libero_90"]
    assert learned["finetuned CLIP"] == learned["EF-VLA, few pictures"] == ["libero_object"]
    assert len({c.folder for c in config.cells()}) == 2 * sum(map(len, learned.values()))


def test_methods_of_ef_vla_are_compared_on_one_token_grid(config):
    grids = {}
    for name in sorted(
        set(METHODS) - {"EF-VLA, small encoder", "EF-VLA, large encoder"}
    ):  # these are trained first
        grids[name] = EFVLAPolicy(config.policy(name)).config.encoder_grid
    assert grids == dict.fromkeys(grids, (16, 16))


def test_vision_from_scratch_has_the_sizes_of_the_encoder_that_it_stands_in_for(config):
    shipped = create_encoder("tiny").config
    scratch = config.policy("w/o CLIP vision")
    assert (scratch.scratch_width, scratch.scratch_layers, scratch.scratch_heads) == (
        shipped.tower_width,
        shipped.image_depth,
        shipped.heads,
    )


def test_every_suite_has_a_policy_of_its_own_or_all_have_one(config):
    alone = {c.method.group: c for c in config.cells() if c.method.name == "EF-VLA" and c.seed == 0}
    assert list(alone) == list(config.suites)
    assert [test.name for test in alone["libero_goal"].tests] == ["libero_goal", "libero_goal, drawn"]
    assert [test.name for test in alone["libero_90"].tests] == ["fovea_unseen"]
    assert {its.out.name for its in alone["libero_goal"].method.data} == {
        "libero_goal-drawn",
        "libero_goal-official",
    }
    assert {its.out.name for its in alone["libero_90"].method.data} == {"libero_90-drawn", "libero_90-spread"}
    config.together = True
    whole = config.cells()[0]
    assert len(config.cells()) == 2 * len(METHODS)
    assert {test.name for test in whole.tests} == {
        test.name for cell in alone.values() for test in cell.tests
    }
    assert len(whole.method.data) == 8


def test_test_episodes_are_apart_from_training(config):
    assert all(c.init_states == [0, 29] for c in config.collections())
    for test in config.tests():
        for start in test.starts:
            assert start.suite == "fovea_unseen" or start.init_state >= 30
    drawn = [s for test in config.tests() for s in test.starts if s.layout == "drawn"]
    assert len({s.seed for s in drawn}) == len(drawn) == 30


def test_a_cell_is_done_only_under_the_settings_that_it_ran_with(config):
    first = config.cells()[0]
    assert not first.done()
    here = {"mujoco": version("mujoco")}
    first.folder.mkdir(parents=True)
    (first.folder / "cell.json").write_text(
        json.dumps({"settings": first.settings(), "method": "EF-VLA", **here})
    )
    assert first.done()
    older = first.settings()
    older["policy"].pop("proprio_noise")  # a field that came later, with its default
    (first.folder / "cell.json").write_text(json.dumps({"settings": older, "method": "EF-VLA", **here}))
    assert first.done()
    older["policy"].pop("value_join")  # here it is not the default
    (first.folder / "cell.json").write_text(json.dumps({"settings": older, "method": "EF-VLA", **here}))
    assert not first.done()
    (first.folder / "cell.json").write_text(
        json.dumps({"settings": first.settings(), "method": "EF-VLA", **here})
    )
    assert [c.method.name for c in config.cells() if c.done()] == ["EF-VLA"]
    for other in ({"steps": 7000}, {"drawn": 11}):
        changed = EFVLAStudyConfig(out=config.out, results=config.results, episodes=1, **other).cells()[0]
        assert changed.folder == first.folder
        assert not changed.done()


@pytest.fixture
def quick(monkeypatch):
    """Cells that neither train nor play."""

    def train(data, policy, training, out, *, workers):
        policy.encoder_identity = "known by now"
        return SimpleNamespace(steps=20, seconds=7.0, loss=0.5, validation_loss=None, policy_path=out)

    def play(actor, starts, out, **settings):
        return [
            {**record(start.task_id, True), "start": vars(start), "wall_seconds": 1.0} for start in starts
        ]

    monkeypatch.setattr("fovea.pipelines.learn.train_policy", train)
    monkeypatch.setattr("fovea.evaluation.closed_loop.evaluate", play)
    monkeypatch.setattr("fovea.evaluation.actor.Actor.load", lambda folder: None)
    monkeypatch.setattr("fovea.pipelines.ladder._size", lambda folder: {"episodes": 10, "frames": 900})


def test_a_cell_that_ran_is_done_though_its_policy_learned_what_its_encoder_is(config, quick):
    cell_that_runs = config.cells()[0]
    cell_that_runs.folder.mkdir(parents=True)
    ladder.run_cell(cell_that_runs)
    done = config.cells()[0].outcome()
    assert done["seconds"] == 7.0 + cell_that_runs.episodes
    assert done["group"] == "libero_object"
    assert cell([done], "EF-VLA", "libero_object").startswith("100% (10/10")


def test_a_record_of_an_encoder_that_the_study_trains_holds_wherever_its_folder_was(config, quick, tmp_path):
    def small(out, **settings):
        settings |= {"methods": ["EF-VLA, small encoder"], "records": tmp_path / "records"}
        return EFVLAStudyConfig(out=tmp_path / out, episodes=1, **settings)

    ladder.run_cell(small("here").cells()[0])
    assert small("elsewhere").cells()[0].done()
    with pytest.raises(FoveaError, match=r"encoder\.training\.steps"):
        small("elsewhere", scale="smoke").cells()[0].done()


def test_an_encoder_that_was_trained_otherwise_is_not_taken(tmp_path):
    method = "EF-VLA, small encoder"
    study = EFVLAStudyConfig(out=tmp_path)
    recipe = study.encoder_recipe(method)
    scenes = {**recipe["corpus"], "render": {"image_size": recipe["corpus"]["image_size"]}}
    folder = study.encoder_folder(method)
    folder.mkdir(parents=True)
    card = folder / "tiny.json"
    card.write_text(json.dumps({"provenance": {"training": recipe["training"], "corpus": scenes}}))
    study.prepare([method])  # there already: nothing is trained
    assert [path.name for path in folder.iterdir()] == ["tiny.json"]
    smoke = EFVLAStudyConfig(out=tmp_path, scale="smoke")
    with pytest.raises(
        FoveaError, match=r"different: corpus\.frames, corpus\.scenes, training\.\w+.* another --out"
    ):
        smoke.prepare([method])
    card.write_text("{}")
    with pytest.raises(FoveaError, match=r"tiny\.json does not say how the encoder was trained"):
        study.prepare([method])


def test_a_study_goes_on_elsewhere_from_the_records_of_its_cells(config, quick, tmp_path):
    config.records = tmp_path / "records"
    ladder.run_cell(config.cells()[0])
    elsewhere = EFVLAStudyConfig(
        out=tmp_path / "new", data=tmp_path / "none", results=tmp_path / "new.md", episodes=1, page_only=True
    )
    run(elsewhere)
    assert "Nothing was measured yet." in elsewhere.results.read_text()  # records are taken where asked for
    elsewhere.records = config.records
    found = run(elsewhere)
    assert [(o["method"], o["group"], o["seed"]) for o in found["cells"]] == [("EF-VLA", "libero_object", 0)]
    assert found["demonstrations"] == {"episodes": 20, "frames": 1800}  # drawn and official
    assert "records" not in elsewhere.results.read_text()
    elsewhere.steps = 7000
    with pytest.raises(
        FoveaError, match=r"other settings \(different: training.steps\); choose another --records"
    ):
        run(elsewhere)  # a trial would take the place of what took hours


def test_episodes_of_another_release_of_mujoco_are_not_mixed_with_those_of_this_one(config, quick, tmp_path):
    config.records = tmp_path / "records"
    ladder.run_cell(config.cells()[0])
    first = config.cells()[0]
    older = json.dumps({**first.outcome(), "mujoco": "3.17.0"})
    assert release("3.17.0") == (3, 17) > release("3.3.7")
    (first.folder / "cell.json").write_text(older)
    with pytest.raises(FoveaError, match=r"ran under MuJoCo 3.17.0, but 3\..* is installed"):
        first.done()
    (first.folder / "cell.json").unlink()
    assert first.done()
    first.record.write_text(older)
    with pytest.raises(FoveaError, match="not to be mixed"):
        first.done()


def test_a_cell_that_ran_before_records_were_asked_for_leaves_one(config, quick, tmp_path):
    ladder.run_cell(config.cells()[0])
    config.records, config.page_only = tmp_path / "records", True
    run(config)
    config.out = tmp_path / "elsewhere"
    assert config.cells()[0].done()


def test_a_trial_that_ran_here_does_not_take_the_place_of_a_record(config, quick, tmp_path):
    config.records = tmp_path / "records"
    ladder.run_cell(config.cells()[0])
    kept = config.cells()[0].record.read_text()
    config.records, config.out, config.steps = None, tmp_path / "trial", 50
    ladder.run_cell(config.cells()[0])
    config.records, config.page_only = tmp_path / "records", True
    with pytest.raises(FoveaError, match="other settings"):
        run(config)
    assert config.cells()[0].record.read_text() == kept


def test_demonstrations_that_methods_share_count_once():
    sizes = {"a": {"episodes": 3, "frames": 300}, "b": {"episodes": 2, "frames": 100}}
    done = [{"demonstrations": sizes}, {"demonstrations": {"a": sizes["a"]}}]
    assert demonstrations(done) == {"episodes": 5, "frames": 400}


def test_methods_and_test_sets_must_differ_in_name(config):
    method, test = config.cells()[0].method, config.tests()[0]
    with pytest.raises(FoveaError, match="share a name"):
        cells([method, method], [test], [0], config.out)
    with pytest.raises(FoveaError, match="expected test sets among libero_object"):
        cells([type(method)(**{**vars(method), "tests": ("moon",)})], [test], [0], config.out)


def test_a_cell_of_a_table_counts_all_seeds_and_shows_each():
    done = [outcome("EF-VLA", 0, 8, 10), outcome("EF-VLA", 1, 10, 10), outcome("LF-VLA", 0, 1, 10)]
    assert cell(done, "EF-VLA", "libero_goal") == "90% (18/20, 70%-97%; seeds 80, 100)"
    assert cell(done, "LF-VLA", ["libero_goal", "libero_object"]) == "10% (1/10, 2%-40%)"
    assert cell(done, "LF-VLA", "libero_object") == "-"
    assert success_table(done, {"goal": ["libero_goal"]})[2:] == [
        "| EF-VLA | 90% (18/20, 70%-97%; seeds 80, 100) |",
        "| LF-VLA | 10% (1/10, 2%-40%) |",
    ]
    assert summary(done)[0]["tests"]["libero_goal"]["tasks"][9]["successes"] == 0


def test_the_page_says_what_ran_and_which_aims_were_missed(config):
    done = [outcome("EF-VLA", 0, 8, 10), outcome("LF-VLA", 0, 1, 10)]
    text = page(config, {"demonstrations": {"episodes": 600, "frames": 57000}, "cells": done})
    assert f"2 of {len(config.cells())} policies" in text
    assert "EF-VLA on libero_goal: 80% (8/10" in text
    assert "the aim of 90% is missed" in text
    assert "80% against 10% in the same 10 episodes; 7 were won by EF-VLA alone, 0 by LF-VLA alone" in text
    assert "(p = 0.016)" in text
    assert "the aim of 2 times LF-VLA" not in text  # LF-VLA has not played the unseen tasks
    for late, reached in ((3, "met"), (4, "missed")):
        both = [outcome("EF-VLA", 0, 6, 10, "fovea_unseen"), outcome("LF-VLA", 0, late, 10, "fovea_unseen")]
        text = page(config, {"demonstrations": {"episodes": 600, "frames": 57000}, "cells": both})
        assert f"LF-VLA {late} of the same 10 episodes; the aim of 2 times LF-VLA is {reached}." in text
    empty = page(config, {"demonstrations": {"episodes": 600, "frames": 57000}, "cells": []})
    assert "Nothing was measured yet." in empty
    assert "Nothing can be compared yet." in ending_of(done, [], ["libero_goal"])


def test_a_page_says_how_far_seeds_come_apart(config):
    def ends(*done):
        return page(config, {"demonstrations": {"episodes": 600, "frames": 57000}, "cells": list(done)})

    first = [outcome("EF-VLA", 0, 8, 10), outcome("LF-VLA", 0, 1, 10)]
    assert "there are no second seeds yet that differ." in ends(*first)
    assert "(p = 0.016)" in ends(*first)
    second = [outcome("EF-VLA", 1, 7, 10), outcome("LF-VLA", 1, 4, 10)]
    text = ends(*first, *second)  # variances 0.005 and 0.045 with one degree of freedom each: 0.025 with two
    assert "It is 15.8 points here (2 degrees of freedom; " in text
    assert "are told apart from 68 points on." in text  # 4.303 * 0.158
    assert "(p = 0.002; over seeds 0.087, so other seeds may say otherwise)" in text  # t = 0.5 / 0.158
    assert "degrees of freedom" not in ends()


def test_the_scatter_of_seeds_is_of_methods_that_played_the_same():
    done = [outcome("EF-VLA", 0, 8, 10), outcome("EF-VLA", 1, 6, 10), outcome("LF-VLA", 0, 4, 10)]
    short = [outcome("w/o f_e", 0, 0, 5), outcome("w/o f_e", 1, 5, 5)]
    alone = over_seeds(done, "EF-VLA", "LF-VLA", ["libero_goal"])  # the seed that both have: 80 against 40 %
    assert alone == pytest.approx(2 * stats.t.sf(0.4 / (0.02 * 2) ** 0.5, 1))
    assert over_seeds([*done, *short], "EF-VLA", "LF-VLA", ["libero_goal"]) == alone
    assert (
        over_seeds(done[:1] + done[2:], "EF-VLA", "LF-VLA", ["libero_goal"]) is None
    )  # no seed was repeated
    assert over_seeds(done, "EF-VLA", "w/o f'_l", ["libero_goal"]) is None
    elsewhere = [outcome("EF-VLA", 0, 8, 10), outcome("EF-VLA", 1, 6, 10, test="libero_object")]
    for played in elsewhere[1]["tests"]["libero_object"]:
        played["start"] = {**played["start"], "suite": "libero_object"}
    assert scatter(elsewhere, ["libero_goal", "libero_object"]) is None  # the seeds share no start
    same = [outcome("EF-VLA", 0, 8, 10), outcome("EF-VLA", 1, 8, 10)]
    assert scatter(same, ["libero_goal"]) is None  # no t without a scatter


def test_a_page_says_whether_the_loss_ranks_policies():
    done = [outcome("mixed", seed, won, 10) for seed, won in enumerate((9, 7, 4, 5, 1))]
    for o, loss in zip(done, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True):
        o["training"]["loss"] = loss
    text = loss_and_success(done, ["libero_goal"])  # 1 - 6 * 2 / (5 * 24), turned round
    assert "of the 5 policies have a rank correlation of -0.90 (Spearman; p = 0.037; libero_goal)" in text
    assert loss_and_success(done[:4], ["libero_goal"]) is None
    assert loss_and_success(done, ["libero_goal", "libero_object"]) is None  # none has played both
    assert loss_and_success([done[0]] * 5, ["libero_goal"]) is None  # nothing to rank


def test_a_page_names_the_tasks_that_fail():
    def played(task, won, of):
        return [{**record(0, i < won), "instruction": task} for i in range(of)]

    cell = {"method": "EF-VLA", "seed": 0, "tests": {"a": played("turn on the stove", 0, 4)}}
    assert where_it_fails([cell], "EF-VLA", ["a"]) is None  # all of them: nothing to set apart
    cell["tests"] |= {"b": played("push the plate", 1, 4) + played("open the drawer", 2, 4)}
    assert where_it_fails([cell], "EF-VLA", ["a", "b"]) == (
        "turn on the stove (0 of 4), push the plate (1 of 4); the other 1 task 2 of 4"
    )
    assert where_it_fails([cell], "LF-VLA", ["a", "b"]) is None


def test_the_ladder_of_focus_vla_has_a_curve_and_a_rung_for_every_choice(tmp_path):
    study = FocusVLAStudyConfig(
        out=tmp_path, data=tmp_path, results=tmp_path / "page.md", episodes=2, seeds=1
    )
    ladder = {c.method.name: c for c in study.cells()}
    assert ladder["+ K = 32"].method.policy.top_k == 32
    assert ladder["mixed"].method.policy.attention == "mixed"
    assert ladder["VLA-Adapter-Pro"].method.policy.type == "vla_adapter"
    steps = {test.step for test in ladder["FocusVLA"].tests}
    assert steps == {None, 700, 1400, 2100, 2800, 3500}
    assert {test.step for test in ladder["mixed"].tests} == {None}
    assert all(step % ladder["FocusVLA"].method.training.save_every == 0 for step in steps - {None})
    for control in CONTROLS:  # each differs in one thing from the model without constraints
        theirs, plain = (vars(ladder[name].method.policy) for name in (control, "mixed"))
        assert len([name for name in plain if theirs[name] != plain[name]]) == 1, control
    assert all(step < 4 for step in FocusVLAStudyConfig(out=tmp_path, steps=4).checkpoints())


def test_the_page_of_focus_vla_draws_the_curve_over_the_same_episodes(tmp_path):
    study = FocusVLAStudyConfig(
        out=tmp_path, data=tmp_path, results=tmp_path / "page.md", episodes=2, seeds=1
    )
    done = []
    for method, won_last in (("FocusVLA", 2), ("VLA-Adapter-Pro", 1)):
        tests = {}
        for test in study.tests():
            won = won_last if test.step is None else test.step >= 2000
            tests[test.name] = [
                {**record(s.task_id, s.task_id % 2 < won), "start": vars(s)} for s in test.starts
            ]
        done.append({**outcome(method, 0, 1, 1), "tests": tests})
    curve = curves(study, done)
    assert [step for step, _ in curve["FocusVLA"]] == [700, 1400, 2100, 2800, 3500, 4200]
    assert [rate.rate for _, rate in curve["FocusVLA"]] == [0, 0, 0.5, 0.5, 0.5, 1]
    assert {rate.episodes for _, rate in curve["FocusVLA"]} == {20}
    text = focus_page(study, {"demonstrations": {"episodes": 400, "frames": 40000}, "cells": done})
    verdict = (
        "best on the curve, 50%, comes after 2,100 steps, FocusVLA's after 2,100 (1.00 of them); the aim"
    )
    assert text.count(verdict) == 2  # a suite each
    assert "Fig. 4" not in text  # nothing of it ran
    again = {**done[1], "seed": 1, "tests": {name: [] for name in done[1]["tests"]}}
    controls = [{**done[0], "method": name} for name in ("mixed", "mixed, 2x2 pooling")]
    cells = [*done, again, *controls]
    text = focus_page(study, {"demonstrations": {"episodes": 400, "frames": 40000}, "cells": cells})
    assert text.count(verdict) == 2  # by the seed that both have
    assert "| mixed, 2x2 pooling |" in text.partition("Fig. 4")[2].partition("## By suite")[0]
    base = {**done[1], "method": "VLA-Adapter"}  # half of the episodes are won at the end
    text = focus_page(study, {"demonstrations": {"episodes": 400, "frames": 40000}, "cells": [*cells, base]})
    assert (
        text.count("ends at 50% of the same episodes after 4,200 steps; FocusVLA is there after 2,100 (0.50")
        == 2
    )
    better = {**done[0], "method": "VLA-Adapter"}
    slower = {**done[1], "method": "FocusVLA"}
    text = focus_page(
        study, {"demonstrations": {"episodes": 400, "frames": 40000}, "cells": [slower, better]}
    )
    assert (
        text.count("ends at 100% of the same episodes after 4,200 steps; FocusVLA does not reach that.") == 2
    )
    assert (tmp_path / "page_curve.png").read_bytes().startswith(b"\x89PNG")


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(FoveaError, match="--records: expected a folder of records"):
        EFVLAStudyConfig(records=tmp_path / "typo", page_only=True)
    with pytest.raises(FoveaError, match="expected cpu or smoke, got 'gpu'"):
        EFVLAStudyConfig(scale="gpu")
    with pytest.raises(FoveaError, match="--methods: expected some of EF-VLA, LF-VLA"):
        EFVLAStudyConfig(methods=["EF"])
    with pytest.raises(FoveaError, match=r"--suites: expected some of .*libero_90, got libero_10"):
        EFVLAStudyConfig(suites=["libero_10"])


def test_a_study_of_one_suite_learns_and_plays_that_suite(tmp_path):
    study = EFVLAStudyConfig(out=tmp_path, data=tmp_path, suites=["libero_object"], seeds=1)
    assert {config.suite for config in study.collections()} == {"libero_object"}
    assert [test.name for test in study.tests()] == ["libero_object", "libero_object, drawn"]
    text = page(study, {"demonstrations": {"episodes": 200, "frames": 20000}, "cells": []})
    assert "--suites '[\"libero_object\"]'" in text
    study.methods = ["w/o f'_l"]
    pasted = shlex.split(study.chosen())
    assert json.loads(pasted[pasted.index("--methods") + 1]) == study.methods
    assert "Every suite has a policy of its own. 200 demonstrations" in text


def test_cells_end_with_a_study_that_is_killed(tmp_path):
    """However it dies: nothing goes on that nobody waits for."""
    script = tmp_path / "study.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from fovea.pipelines.side_by_side import live_and_die_with_the_study\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, mp_context=context, initializer=live_and_die_with_the_study)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600).result()\n"
    )
    study = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert study.stdout is not None
    cell = psutil.Process(int(study.stdout.readline()))
    study.kill()
    study.wait()
    gone, alive = psutil.wait_procs([cell], timeout=60)
    assert (gone, alive) == ([cell], [])
