import pytest

from fovea.errors import FoveaError
from fovea.evaluation.episodes import drawn, episode_id, official


def test_official_runs_every_task_from_every_state():
    starts = official("libero_object", [0, 3], range(40, 43))
    assert [(start.task_id, start.init_state) for start in starts] == [
        (0, 40), (0, 41), (0, 42), (3, 40), (3, 41), (3, 42),
    ]  # fmt: skip
    assert all(start.layout == "official" and start.target is None for start in starts)


def test_drawn_episodes_do_not_depend_on_which_others_are_run():
    few = drawn("libero_object", [2], 3, seed=7)
    many = drawn("libero_object", [0, 1, 2], 5, seed=7)
    assert [start for start in many if start.task_id == 2][:3] == few
    assert len({start.seed for start in many}) == len(many)


def test_another_seed_draws_other_episodes_and_the_same_seed_the_same():
    assert drawn("libero_object", [0], 4, seed=1) == drawn("libero_object", [0], 4, seed=1)
    assert drawn("libero_object", [0], 4, seed=1) != drawn("libero_object", [0], 4, seed=2)


def test_drawn_seeds_are_the_same_on_every_machine():
    assert [start.seed for start in drawn("libero_object", [0], 2, seed=0)] == SEEDS


def test_targets_are_named_in_turn():
    starts = drawn("libero_object", [0, 1], 3, targets={1: ["milk", "ketchup"]})
    assert [start.target for start in starts] == [None, None, None, "milk", "ketchup", "milk"]


def test_episode_id_tells_starts_and_policies_apart():
    first, second = official("libero_object", [0], [0, 1])
    assert episode_id(first, "a") == episode_id(first, "a")
    assert len({episode_id(first, "a"), episode_id(second, "a"), episode_id(first, "b")}) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: official("libero_object", [], [0]), "task_ids"),
        (lambda: official("libero_object", [0], [1, 1]), "init_states"),
        (lambda: drawn("libero_object", [0], 0), "at least 1 episode"),
        (lambda: drawn("libero_object", [0], 1, targets={4: ["milk"]}), r"tasks \[4\]"),
        (lambda: drawn("libero_object", [0], 1, targets={0: []}), "empty"),
    ],
)
def test_bad_lists_are_refused(call, message):
    with pytest.raises(FoveaError, match=message):
        call()


SEEDS = [2022135051, 550787399]
