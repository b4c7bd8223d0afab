import math

import pytest

from fovea.errors import FoveaError
from fovea.evaluation.statistics import SuccessRate, endings, grounding, markdown_table, task_table, wilson


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [  # statsmodels.stats.proportion.proportion_confint(..., method="wilson"); 0 and n known in closed form
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_wilson_agrees_with_published_values(successes, episodes, low, high):
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=1e-4)


def test_wilson_without_episodes_knows_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert SuccessRate(0, 0).to_dict()["rate"] is None
    assert math.isnan(SuccessRate(0, 0).rate)


def test_wilson_narrows_with_episodes_and_widens_with_confidence():
    def width(*args):
        low, high = wilson(*args)
        return high - low

    assert width(70, 100) < width(7, 10)
    assert width(7, 10, 0.99) > width(7, 10, 0.95)


@pytest.mark.parametrize("bad", [(3, 2), (-1, 2), (0, -1)])
def test_wilson_refuses_impossible_counts(bad):
    with pytest.raises(FoveaError, match="successes"):
        wilson(*bad)
    with pytest.raises(FoveaError, match="confidence"):
        wilson(1, 2, 95)


def record(task: int, success: bool, layout="official", lifted=None, closed=None, steps=100):
    return {
        "start": {"suite": "libero_object", "task_id": task, "layout": layout},
        "instruction": f"task {task}",
        "success": success,
        "steps": steps,
        "seconds": 1.0,
        "first_lifted": lifted,
        "first_close": closed,
        "final": {"gripper_to_target": 0.1, "target_to_place": 0.2},
    }


def test_task_table_keeps_layouts_apart_and_counts():
    rows = task_table(
        [record(1, True), record(0, False), record(0, True, steps=80), record(0, True, layout="drawn")]
    )
    assert [(row["task_id"], row["layout"], row["successes"], row["episodes"]) for row in rows] == [
        (0, "drawn", 1, 1),
        (0, "official", 1, 2),
        (1, "official", 1, 1),
    ]
    assert rows[1]["steps"] == 80  # the mean of successes: a failure always takes the whole limit
    assert "| task 1 | 100% (1/1) | 21% - 100% |" in markdown_table(rows)


def test_grounding_counts_only_episodes_in_which_it_happened():
    near = {"right": True, "distance": 0.01, "target_distance": 0.01}
    far = {"right": False, "distance": 0.05, "target_distance": 0.3}
    found = grounding([record(0, True, lifted={"right": True}, closed=near), record(0, False, closed=far)])
    assert (found["lifted_right"]["rate"], found["lifted_right"]["episodes"]) == (1.0, 1)
    assert found["closed_right"]["rate"] == 0.5
    assert found["close_distance"] == 0.03
    in_the_air = {"right": True, "distance": 0.4, "target_distance": 0.4}  # the nearest all the same
    drawer = record(0, True, closed={"right": None, "distance": 0.1, "target_distance": None})
    drawer["final"] = {"gripper_to_target": None, "target_to_place": None}
    found = grounding([record(0, False, closed=c) for c in (near, far, in_the_air, None)] + [drawer])
    assert (found["closed_right"]["successes"], found["closed_right"]["episodes"]) == (2, 3)
    assert (found["closed_near"]["successes"], found["closed_near"]["episodes"]) == (1, 4)
    assert grounding([record(0, False)])["close_distance"] is None


def test_every_episode_has_one_ending():
    right, wrong = {"right": True}, {"right": False}
    records = [
        record(0, True, lifted=right, closed=right),
        record(0, False, lifted=right, closed=wrong),
        record(0, False, lifted=wrong, closed=right),
        record(0, False, closed=right),
        record(0, False, closed=wrong),
        record(0, False),
    ]
    assert list(endings(records).values()) == [1, 1, 1, 2, 1]
    nowhere = {"final": {"gripper_to_target": None, "target_to_place": None}}  # a drawer: it names no object
    drawer = record(0, False, closed={"right": None}) | nowhere
    others = [drawer, drawer | {"success": True}, drawer | {"first_close": None}]
    assert endings([*records, *others]) == endings(records)
