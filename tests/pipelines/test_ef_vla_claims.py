"""The page of EF-VLA's study says of each of the paper's findings whether it holds here."""

import pytest
from test_ladder import outcome

from fovea.pipelines.ef_vla_claims import CLAIMS, claims
from fovea.pipelines.ef_vla_page import page
from fovea.pipelines.ef_vla_scale import picture_work, scale
from fovea.pipelines.ef_vla_study import METHODS, EFVLAStudyConfig


def rows(done):
    """(methods, where) -> the last column, and the numbers."""
    table = [line.strip("| ").split(" | ") for line in claims(done) if line.startswith("| ")][1:]
    return {(methods, where): (judged, numbers) for _, methods, where, numbers, judged in table}


def test_every_method_of_the_study_is_asked_after_on_test_sets_that_it_plays():
    study = EFVLAStudyConfig()
    played = {test.name for test in study.tests()}
    assert {name for claim in CLAIMS for name in (claim.one, claim.other)} == set(METHODS)
    assert {test for claim in CLAIMS for test in claim.tests} == played
    for claim in CLAIMS:
        for method in (claim.one, claim.other):
            theirs = {test for group in study.groups_of(method) for test in group.tests}
            assert theirs & set(claim.tests), (method, claim.where)


def test_without_policies_nothing_holds():
    assert {judged for judged, _ in rows([]).values()} == {"not trained yet"}


@pytest.mark.parametrize(
    ("early", "late", "ahead", "alike"),
    [
        (18, 6, "holds", "does not hold"),
        (6, 18, "does not hold", "does not hold"),
        (12, 11, "cannot be told", "nothing speaks against it"),
    ],
)
def test_a_finding_holds_where_the_methods_come_apart_its_way(early, late, ahead, alike):
    done = [
        outcome(method, 0, won, 20, test)
        for method, won in (("EF-VLA", early), ("LF-VLA", late))
        for test in ("fovea_unseen", "libero_spatial")
    ]
    found = rows(done)
    judged, numbers = found["EF-VLA and LF-VLA", "unseen tasks"]
    assert judged == ahead
    assert numbers.startswith(f"{early / 20:.0%} against {late / 20:.0%} of the same 20, p = ")
    assert found["EF-VLA and LF-VLA", "libero_spatial"][0] == alike
    assert found["EF-VLA and w/o f_e", "unseen tasks"] == ("not trained yet", "-")


def test_seeds_that_come_apart_make_a_finding_one_of_these_seeds():
    done = [
        outcome(method, seed, won, 20, "fovea_unseen")
        for method, wins in (("EF-VLA", (20, 10)), ("LF-VLA", (2, 8)))
        for seed, won in enumerate(wins)
    ]
    judged, numbers = rows(done)["EF-VLA and LF-VLA", "unseen tasks"]
    assert judged == "holds for these seeds"
    assert "over seeds 0." in numbers


def test_encoders_are_sorted_by_what_a_picture_costs():
    assert scale([outcome("EF-VLA", 0, 9, 10, "libero_object")]) == []
    done = [
        outcome(method, 0, won, 10, "libero_object")
        for method, won in (("EF-VLA, large encoder", 9), ("EF-VLA", 8), ("EF-VLA, small encoder", 7))
    ]
    table = [line.strip("| ").split(" | ") for line in scale(done) if line.startswith("| EF-VLA")]
    assert [row[0] for row in table] == ["EF-VLA, small encoder", "EF-VLA", "EF-VLA, large encoder"]
    assert [row[3][:4] for row in table] == ["70% ", "80% ", "90% "]


def test_work_of_a_picture_is_that_of_its_products():
    """By hand, for 256 patches: three convolutions, blocks of qkv, attention, output and two layers, the projection."""
    width, depth, joint, patches = 128, 4, 128, 256
    sides = ((64, 3, 32), (32, 32, 64), (16, 64, 128))
    stem = sum(side * side * 9 * before * after for side, before, after in sides)
    block = patches * (3 + 1 + 2 + 2) * width * width + 2 * patches * patches * width
    work, weights = picture_work({})
    assert work == pytest.approx(2e-9 * (stem + depth * block + patches * width * joint), rel=1e-3)
    assert weights == pytest.approx(0.69e6, rel=0.1)


def test_a_study_of_one_method_and_one_suite_speaks_of_nothing_else(tmp_path):
    config = EFVLAStudyConfig(
        methods=["EF-VLA"], suites=["libero_goal"], data=tmp_path, results=tmp_path / "page.md"
    )
    done = [outcome("EF-VLA", 0, 3, 4, test) for test in ("libero_goal", "libero_goal, drawn")]
    text = page(config, {"cells": done, "demonstrations": {"episodes": 200, "frames": 24007}})
    assert "| EF-VLA | 75% (3/4" in text
    for other in ("LF-VLA |", "not trained yet", "nseen", "from scratch", "other sizes"):
        assert other not in text
    everything = page(
        EFVLAStudyConfig(data=tmp_path), {"cells": done, "demonstrations": {"episodes": 1, "frames": 9}}
    )
    for other in ("Unseen: the nine", "from scratch", "other sizes"):
        assert other in everything
