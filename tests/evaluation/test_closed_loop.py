"""Closed loop on real LIBERO scenes, with actors that need no training: a replayed demonstration, standing still."""

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor
from fovea.evaluation.closed_loop import evaluate, read_records, warn_if_different
from fovea.evaluation.episodes import official
from fovea.evaluation.film import Films
from fovea.evaluation.worker import Watch
from fovea.sim import LiberoEnv, RenderSettings
from fovea.sim.expert import Expert

SMALL = RenderSettings(image_size=32)
STARTS = official("libero_object", [4], [3, 4, 5])  # pick up the ketchup and place it in the basket


@dataclass
class Script:
    """Acts the same list of actions in every episode, then stands still; counts how often it is asked."""

    actions: list[np.ndarray] = field(default_factory=list)
    identity: str = "script"
    asked: int = 0
    has_maps: bool = False
    patience: int = 10**6  # Ctrl-C is pressed when it has been asked so often

    def new_episode(self, seed: int) -> dict[str, int]:
        return {"step": 0}

    def batch(self, observations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return observations

    def act(self, states: list[dict[str, int]], batch: list[dict[str, Any]]) -> np.ndarray:
        assert len(states) == len(batch)
        if self.asked >= self.patience:
            raise KeyboardInterrupt
        self.asked += len(states)
        actions = np.zeros((len(states), 7))
        for row, state in enumerate(states):
            if state["step"] < len(self.actions):
                actions[row] = self.actions[state["step"]]
            state["step"] += 1
        return actions

    def play(self, states: list[Any], batch: list[dict[str, Any]], every_frame: list[bool]) -> np.ndarray:
        return self.act(states, batch)[:, None]


@dataclass
class Killer(Script):
    """Kills the simulating processes when it is first asked, or whenever an episode begins."""

    at_every_begin: bool = False

    def new_episode(self, seed: int) -> dict[str, int]:
        if self.at_every_begin:
            self.kill()
        return super().new_episode(seed)

    def act(self, states: list[dict[str, int]], batch: list[dict[str, Any]]) -> np.ndarray:
        if not self.asked:
            self.kill()
        return super().act(states, batch)

    def kill(self) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            child.join()


@pytest.fixture(scope="module")
def demonstration(asset_cache) -> list[np.ndarray]:
    env = LiberoEnv("libero_object", 4, render=SMALL)
    env.reset(STARTS[0])
    expert, actions = Expert(env), []
    while not env.success and len(actions) < env.max_steps:
        actions.append(expert.act())
        env.step(actions[-1])
    env.close()
    return actions


def test_a_replayed_demonstration_succeeds_again_at_the_same_step(demonstration, tmp_path):
    (record,) = evaluate(Script(demonstration), STARTS[:1], tmp_path, render=SMALL, progress=False)
    assert record["success"]
    assert record["steps"] == len(demonstration)
    assert record["instruction"] == "pick up the ketchup and place it in the basket"
    assert record["targets"] == ["ketchup_1"]
    assert record["first_close"]["object"] == record["first_lifted"]["object"] == "ketchup_1"
    assert record["first_close"]["right"]
    assert record["first_lifted"]["right"]
    assert record["first_close"]["step"] < record["first_lifted"]["step"] < record["steps"]
    assert record["final"]["target_to_place"] < 0.1


def test_finished_episodes_are_kept_and_half_a_line_is_played_again(tmp_path):
    options = {"render": SMALL, "max_steps": 2, "films": 1, "progress": False}
    first, rest, again, third = Script(patience=2), Script(), Script(), Script()
    with pytest.raises(KeyboardInterrupt):
        evaluate(first, STARTS, tmp_path, workers=1, **options)
    assert multiprocessing.active_children() == []
    assert len(read_records(tmp_path / "episodes.jsonl")) == 1
    records = evaluate(rest, STARTS, tmp_path, workers=2, **options)
    assert (first.asked, rest.asked) == (2, 4)
    assert [record["start"] for record in records] == [start.asdict() for start in STARTS]
    assert not any(record["success"] for record in records)
    assert all(record["first_close"] is record["first_lifted"] is None for record in records)
    (film,) = [record["video"] for record in records if record["video"]]
    assert (tmp_path / film).stat().st_size > 1000

    assert evaluate(again, STARTS, tmp_path, workers=1, **options) == records
    assert again.asked == 0

    path = tmp_path / "episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-20])  # as a kill in the middle of a line leaves it
    assert len(read_records(path)) == 2
    evaluate(third, STARTS, tmp_path, workers=1, **options)
    assert third.asked == 2
    lines = path.read_text().splitlines(keepends=True)
    assert len([json.loads(line) for line in lines]) == 3

    path.write_text(lines[0] + lines[1][:30] + "\n" + lines[2])
    with pytest.raises(FoveaError, match=r"episodes\.jsonl, line 2: expected the record of an episode"):
        evaluate(third, STARTS, tmp_path, workers=1, **options)


def test_a_worker_that_dies_is_named_and_replaced(tmp_path, capsys):
    options = {"render": SMALL, "max_steps": 2, "workers": 1, "progress": False}
    (record,) = evaluate(Killer(), STARTS[:1], tmp_path, **options)
    assert record["steps"] == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "died (exit code -9) at libero_object task 4" in said


def test_a_worker_that_dies_again_and_again_stops_the_evaluation(tmp_path):
    with pytest.raises(FoveaError, match=r"for the 3\. time"):
        evaluate(Killer(at_every_begin=True), STARTS[:1], tmp_path, render=SMALL, progress=False)


def test_what_the_simulator_refuses_reaches_the_caller(tmp_path):
    with pytest.raises(FoveaError, match="tasks 0 to 9, got 99"):
        evaluate(Script(), official("libero_object", [99], [0]), tmp_path, render=SMALL, progress=False)
    assert read_records(tmp_path / "episodes.jsonl") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "at least one worker"),
        ({"starts": []}, "0 episodes"),
        ({"max_steps": 0}, "limit of 0"),
        ({"starts": [STARTS[0], STARTS[0]]}, "every episode once"),
    ],
)
def test_senseless_runs_are_refused(tmp_path, changes, message):
    with pytest.raises(FoveaError, match=message):
        evaluate(**({"actor": Script(), "starts": STARTS, "out": tmp_path, "progress": False} | changes))


def test_actions_that_are_not_finite_are_refused():
    policy = SimpleNamespace(act=lambda states, batch: torch.full((1, 7), float("nan")))
    policy.eval = lambda: policy
    with pytest.raises(FoveaError, match="not finite"):
        Actor(policy, None, lambda actions: actions, "nan").act([None], {})


def test_pictures_drawn_otherwise_than_in_training_are_warned_of():
    here = SMALL.asdict()
    warn_if_different(here, None)
    warn_if_different(here, here | {"added_later": 1})
    with pytest.warns(UserWarning, match="image_size 128 in training, 32 here"):
        warn_if_different(here, RenderSettings().asdict())


def test_films_of_successes_and_failures_one_of_each_task():
    def record(success: bool, task: int, video: str | None = None) -> dict[str, Any]:
        return {"success": success, "start": {"suite": "libero_object", "task_id": task}, "video": video}

    films = Films(2, [record(True, 0, "videos/a.mp4"), record(False, 0)])
    assert films.may_want(17)
    taken = [films.take(0, record(*each)) for each in [(True, 0), (True, 1), (True, 2), (False, 1)]]
    assert taken == [False, True, False, True]
    assert [Films([1, 3]).take(number, record(True, 0)) for number in range(4)] == [False, True, False, True]
    assert not Films(()).may_want(0)


def test_a_goal_that_moves_no_object_has_no_right_one():
    positions = {"bowl_1": np.array([0, 0, 0.9]), "plate_1": np.array([0.3, 0, 0.9]), "stove_1": np.zeros(3)}
    env = SimpleNamespace(
        sim_env=SimpleNamespace(
            parsed_problem={"goal_state": [["turnon", "stove_1"]]}, objects_dict={"bowl_1": 0, "plate_1": 0}
        ),
        object_names=list(positions),
        object_positions=lambda: positions,
        state=lambda: np.array([0.25, 0, 0.9, 0, 0, 0, 0, 0], np.float32),
    )
    watch = Watch(env)
    watch.look(3, 1.0)
    assert (watch.first_close["object"], watch.first_close["right"]) == ("plate_1", None)
    assert watch.final() == {"gripper_to_target": None, "target_to_place": None}
    env.sim_env.parsed_problem["goal_state"] = [["on", "bowl_1", "plate_1"]]
    watch = Watch(env)
    watch.look(3, 1.0)
    assert (watch.first_close["object"], watch.first_close["right"]) == ("bowl_1", True)
    assert watch.final() == {"gripper_to_target": 0.25, "target_to_place": 0.3}
