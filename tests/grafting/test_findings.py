"""What a study says, on records whose truth is known."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import numpy as np
import pytest

from fovea.errors import FoveaError
from fovea.grafting.cells import Cell, Plan
from fovea.grafting.findings import find
from fovea.grafting.pages import to_html, to_markdown, write_pages
from fovea.grafting.tokens import TAP

EPISODES = np.repeat(np.arange(8), 6)
LARGE = {"a": 0.3, "b": 0.2, "c <&> d": 0.4}
SMALL = {"a": 0.2, "b": 0.3, "c <&> d": 0.4}


def truth(cell: Cell) -> float:
    """Error of a cell: `a` wins on the small backbone, `b` on the large one, and `c <&> d` is blind."""
    if cell.kind != "graft":
        kinds = {"native": 0.2, "wrapped": 0.3, "lora": 0.1}
        return kinds[cell.kind] if cell.vision == "pictures" else 0.9
    own = (SMALL if cell.backbone == "small" else LARGE)[cell.encoder or ""]
    blind = cell.encoder == "c <&> d"
    return own + (0.0 if cell.vision == "pictures" or blind else 0.2)


def make_study(
    plan: Plan, error: Callable[[Cell], float] = truth, looks: Callable[[Cell], bool] = lambda cell: True
) -> dict:
    records = []
    shared = np.random.default_rng(5).normal(0, 0.05, 8)[EPISODES]
    for number, cell in enumerate(plan.cells()):
        rng = np.random.default_rng([7, number])

        def scores(mean: float, rng: np.random.Generator = rng) -> dict[str, list[float]]:
            mse = 0.5 + mean + shared + rng.normal(0, 0.01, len(EPISODES))
            return {
                "mse": list(mse),
                "mse_real": list(mse / 10),
                "flow": list(2 * mse),
                "zero_action": [2.0] * 48,
            }

        records.append(
            {
                "id": str(number),
                "cell": cell.asdict(),
                "label": cell.label,
                "scores": scores(error(cell)),
                "shuffled": scores(error(cell) + 0.3 * looks(cell)) if cell.vision == "pictures" else None,
                "episodes": EPISODES.tolist(),
                "losses": [],
                "trained": 8,
                "parameters": 2_000_000 if cell.backbone == "small" else 9_000_000,
                "seconds": 1.0,
            }
        )
    about = {"train": 40, "train_episodes": 9, "held_out": 48, "held_out_episodes": list(range(8))}
    return {"records": records, "suites": dict.fromkeys(plan.suites, about), "tokens": {}}


PLAN = Plan(["large", "small"], list(SMALL), ["here", "there"], seeds=2)


@pytest.fixture(scope="module")
def found():
    return find(make_study(PLAN), draws=300)


def test_winners_and_whether_they_carry_over(found):
    assert [row["encoder"] for row in found["tables"]["small"]["here"]["rows"]] == ["a", "b", "c <&> d"]
    assert [row["encoder"] for row in found["tables"]["large"]["here"]["rows"]] == ["b", "a", "c <&> d"]
    assert found["agreement"] == {
        "comparisons": 2,
        "decided": 2,
        "transfers": 0,
        "same_winner": 0,
        "seed_cells": 4,
        "seed_same_winner": 0,
        "seed_same_order": 0,
    }
    assert (
        "In 2 of 2 comparisons the small backbone's winner is not in the large backbone's top tier"
        in found["verdict"]
    )
    assert found["comparisons"][0]["tau"] == pytest.approx(1 / 3, abs=1e-4)


def test_a_graft_that_does_not_look_is_called_blind(found):
    rows = {row["encoder"]: row for row in found["tables"]["small"]["here"]["rows"]}
    assert rows["a"]["vision"]["uses"]
    assert rows["a"]["vision"]["control"] == "trained shuffled"
    assert rows["a"]["vision"]["difference"]["value"] == pytest.approx(-0.2, abs=0.02)
    assert rows["a"]["vision"]["mse"] - rows["a"]["vision"]["control_mse"] == pytest.approx(
        rows["a"]["vision"]["difference"]["value"], abs=1e-4
    )
    assert not rows["c <&> d"]["vision"]["uses"]
    assert "4 of 12 grafts do not use vision" in found["verdict"]


def test_a_backbone_that_does_not_look_itself_is_named(found):
    assert found["tables"]["small"]["here"]["native_vision"]["uses"]
    assert "Untouched" not in found["verdict"]
    blind = find(make_study(PLAN, looks=lambda cell: cell.backbone == "large"), draws=300)
    assert not blind["tables"]["small"]["there"]["native_vision"]["uses"]
    assert "other samples': small on here, small on there. What does not look" in blind["verdict"]
    assert blind["verdict"].startswith("Whether the small backbone's winner carries over cannot be told here")
    assert blind["agreement"]["decided"] == blind["agreement"]["transfers"] == 0
    page = to_markdown(blind, dict.fromkeys(("ranks-here", "ranks-there", "rank-flow"), "x.svg"))
    assert page.count("| native, nothing trained |") == 4


def test_an_episode_that_decides_alone_is_named(found):
    assert "A single held-out episode" not in found["verdict"]
    study = make_study(PLAN)
    for record in study["records"]:
        for at in np.flatnonzero(EPISODES == 3):
            record["scores"]["mse"][at] += 10 * (record["cell"]["suite"] == "there")
    heavy = find(study, draws=300)
    assert heavy["tables"]["small"]["there"]["heaviest"]["episode"] == 3
    assert "carries much of the error (6" in heavy["verdict"]
    assert "on small (there), 6" in heavy["verdict"]


def test_without_a_trained_control_the_shuffled_scores_decide():
    plan = Plan(["small"], ["a"], ["here"], seeds=2, controls=["native"])
    found = find(make_study(plan), draws=200)
    vision = found["tables"]["small"]["here"]["rows"][0]["vision"]
    assert (vision["control"], vision["uses"]) == ("shuffled when scored", True)
    assert (
        "One backbone, so nothing is said about transfer; the best encoder is a on here" in found["verdict"]
    )
    assert found["tables"]["small"]["here"]["neutrality"] is None
    assert found["comparisons"] == []


def test_what_the_wrapper_costs_is_relative_to_the_untouched_backbone(found):
    table = found["tables"]["small"]["here"]
    assert table["neutrality"]["value"] == pytest.approx(0.1 / 0.7, abs=0.01)
    assert table["neutrality"]["low"] > 0
    assert table["lora"]["value"] == pytest.approx(-0.1 / 0.7, abs=0.01)
    names = [control["name"] for control in table["controls"]]
    assert {
        "native",
        "native, wrapped",
        "native + LoRA",
        "zero embedding",
        "a, zero image",
        "a, 4 x 4 tokens",
    } <= set(names)


def test_a_tie_of_all_encoders_is_no_safe_choice():
    def tied(cell: Cell) -> float:
        blind = 0.2 * (cell.kind == "graft" and cell.vision != "pictures")
        return truth(cell) if cell.backbone == "small" else 0.3 + blind

    plan = Plan(["small", "large"], ["a", "b"], ["here"], seeds=4)
    found = find(make_study(plan, tied), draws=300)
    assert all(row["tied"] for row in found["tables"]["large"]["here"]["rows"])
    assert "safe choice" not in found["verdict"]
    assert "on here (on large no encoder can be told from the best)" in found["verdict"]
    page = to_markdown(found, dict.fromkeys(("ranks-here", "rank-flow"), "x.svg"))
    assert "cannot be told: on large no encoder can be told from the best" in page
    assert "None of 1 comparisons can be decided." in page


def test_a_tie_on_the_small_backbone_decides_nothing_either():
    def tied(cell: Cell) -> float:
        blind = 0.2 * (cell.kind == "graft" and cell.vision != "pictures")
        return truth(cell) if cell.backbone == "large" else 0.3 + blind

    found = find(make_study(Plan(["small", "large"], ["a", "b"], ["here"], seeds=4), tied), draws=300)
    assert not all(row["tied"] for row in found["tables"]["large"]["here"]["rows"])
    assert "on here (on small no encoder can be told from the best)" in found["verdict"]


def test_one_winner_on_both_is_a_safe_choice():
    def same(cell: Cell) -> float:
        return truth(Cell(**{**cell.asdict(), "backbone": "small"}))

    found = find(make_study(PLAN, same), draws=200)
    assert found["verdict"].startswith(
        "An encoder chosen on the small backbone is a safe choice for the large one here"
    )
    assert found["agreement"]["transfers"] == 2


def test_a_verdict_says_where_it_holds_and_where_nothing_can_be_told():
    def half(cell: Cell) -> float:
        if cell.suite == "there" and cell.backbone == "large":
            return 0.3 + 0.2 * (cell.kind == "graft" and cell.vision != "pictures")
        return truth(Cell(**{**cell.asdict(), "backbone": "small"}))

    verdict = find(
        make_study(Plan(["small", "large"], ["a", "b"], ["here", "there"], seeds=4), half), draws=300
    )["verdict"]
    assert "is a safe choice for the large one where it can be told: on here a wins on small" in verdict
    assert "It cannot be told on there (on large no encoder can be told from the best)." in verdict


def test_the_html_page_says_how_it_ran_in_paragraphs(found):
    page = to_html(
        found,
        dict.fromkeys(("ranks-here", "ranks-there", "rank-flow"), "<svg/>"),
        ["`fovea x` ran.", "a < b"],
    )
    assert "<p><code>fovea x</code> ran.</p>" in page
    assert "<p>a &lt; b</p>" in page


def test_pages_are_well_formed_whatever_the_names(found, tmp_path):
    page = write_pages(found, tmp_path / "out", markdown=tmp_path / "grafting.md", head=["How it ran."])
    assert page.read_text().count("<section") == page.read_text().count("</section>") >= 7
    figures = sorted(path.name for path in (tmp_path / "grafting").iterdir())
    assert figures == ["rank-flow.svg", "ranks-here.svg", "ranks-there.svg"]
    for name in figures:
        svg = ElementTree.parse(tmp_path / "grafting" / name).getroot()
        words = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
        assert any("c <&> d" in word for word in words)
    dots = ElementTree.parse(tmp_path / "grafting" / "ranks-here.svg").getroot()
    _, _, width, _ = map(float, dots.attrib["viewBox"].split())
    assert all(0 <= float(c.attrib["cx"]) <= width for c in dots.iter("{http://www.w3.org/2000/svg}circle"))
    assert "How it ran." in (tmp_path / "grafting.md").read_text()


def test_the_markdown_page_has_a_row_for_everything(found):
    text = to_markdown(found, dict.fromkeys(("ranks-here", "ranks-there", "rank-flow"), "x.svg"))
    assert text.count("does not use vision |") == 4
    assert text.count("| native, wrapped | 2 |") == 4
    assert "offline diagnostic" in text


def test_a_study_without_a_graft_is_refused():
    plan = Plan(["small"], ["a"], ["here"], seeds=1, controls=["native"])
    study = make_study(plan)
    study["records"] = [record for record in study["records"] if record["cell"]["kind"] == "native"]
    with pytest.raises(FoveaError, match="at least one graft"):
        find(study)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tiny@attn_qk", ("tiny", "attn_qk")),
        ("dinov2@224", None),
        ("dinov2@224@penultimate", ("dinov2@224", "penultimate")),
        ("timm/vit_small_patch14_dinov2.lvd142m", None),
    ],
)
def test_a_tap_is_told_from_a_size(name, parts):
    known = TAP.fullmatch(name)
    assert (known.groups() if known else None) == parts
