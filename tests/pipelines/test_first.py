"""The first study's table and verdict say what the episodes say."""

from fovea.pipelines.first import FirstConfig, summarise, table, verdict
from fovea.sim.suites import target_of


def records(target: str, won: int, lost: int) -> list[dict]:
    close = {"object": f"{target}_1", "right": True, "distance": 0.01, "target_distance": 0.01}
    lifted = {"object": f"{target}_1", "right": True}
    one = {
        "start": {"target": target},
        "first_close": close,
        "first_lifted": lifted,
        "final": {"gripper_to_target": 0.1, "target_to_place": 0.2},
        "seconds": 1.0,
        "steps": 90,
    }
    return [{**one, "success": i < won} for i in range(won + lost)]


def outcome(early_held: int, late_held: int) -> dict:
    def method(held: int) -> dict:
        return summarise([*records("milk", 19, 1), *records("butter", held, 20 - held)], ["butter"])

    return {
        "collected": {"episodes": 400, "frames": 40_000},
        "methods": {"EF-VLA": method(early_held), "LF-VLA": method(late_held)},
        "seconds": {"collect": 3600.0},
        "commit": "abc1234",
    }


def test_trained_and_held_out_targets_are_counted_apart():
    numbers = outcome(12, 2)["methods"]["EF-VLA"]
    assert (numbers["trained"]["successes"], numbers["trained"]["episodes"]) == (19, 20)
    assert (numbers["held_out"]["successes"], numbers["held_out"]["episodes"]) == (12, 20)


def test_the_table_names_episodes_intervals_seed_and_commit():
    text = table(FirstConfig(holdout=["butter"]), outcome(12, 2))
    for part in ("60% (12/20, 39%-78%)", "seed 0", "abc1234", "butter (held out)", "Wilson"):
        assert part in text


def test_the_table_says_how_episodes_ended():
    text = table(FirstConfig(holdout=["butter"]), outcome(12, 2))
    assert "| EF-VLA, held-out | 12 | 8 | 0 | 0 | 0 |" in text


def test_the_verdict_admits_a_missed_aim():
    assert "misses the aim of 60 %" in verdict(outcome(8, 6)["methods"])
    assert "may be chance" in verdict(outcome(8, 6)["methods"])


def test_the_verdict_states_a_met_aim():
    text = verdict(outcome(18, 2)["methods"])
    assert "meets the aim of 60 %" in text
    assert "is more than chance" in text
    assert "is met." in text


def test_the_verdict_says_what_failures_were():
    hovering = {"success": False, "first_close": None, "first_lifted": None, "steps": 280, "seconds": 1.0}
    failed = [
        {**hovering, "start": {"target": "butter"}, "final": {"gripper_to_target": g}}
        for g in (0.01, 0.02, 0.09)
    ]
    numbers = summarise([*records("milk", 20, 0), *records("butter", 16, 1), *failed], ["butter"])
    text = verdict({"EF-VLA": numbers, "LF-VLA": numbers})
    assert (
        "Of EF-VLA's 4 failures on held-out targets 3 never closed the gripper (median 2.0 cm from the named object "
        "at the end), 1 lifted the named object and did not deliver it."
    ) in text


def test_the_target_of_a_task_is_read_from_its_name():
    assert target_of("pick_up_the_orange_juice_and_place_it_in_the_basket") == "orange_juice"
