"""Toy versions of the five long jobs. Each goes on with what its folder holds, and says what came of it.

Only what simulates or learns is a toy: files, locks, journals, checkpoints and resuming are the product's own.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import toy_training
from test_feature_cache import PoolEncoder

from fovea.data.dataset import open_dataset
from fovea.data.feature_build import build_features
from fovea.data.feature_cache import FeatureCache
from fovea.evaluation import closed_loop
from fovea.evaluation.episodes import drawn
from fovea.pipelines import first
from fovea.sim import EpisodeStart, collect
from fovea.training.metrics import read_metrics

DATA = "data"  # beside a job's folder: the data set that is cached
UNSTABLE = ("seconds", "wall_seconds")


def train(folder: Path) -> None:
    toy_training.run(folder, steps=16, save_every=2, validate_every=8)


def trained(folder: Path) -> dict[str, Any]:
    last = folder / "checkpoints" / "last"
    files = [
        *(last / "pretrained_model").glob("*.safetensors"),
        last / "training_state" / "state.safetensors",
    ]
    losses = [without_clock(line) for line in read_metrics(folder / "metrics.jsonl")]
    return {path.name: digest(path) for path in files} | {"metrics": losses}


def cache(folder: Path) -> None:
    build_features(
        PoolEncoder(),
        open_dataset(folder.parent / DATA),
        root=folder,
        batch_size=4,
        workers=1,
        progress=False,
    )


def cached(folder: Path) -> dict[str, Any]:
    (found,) = (path for path in (folder / "features").iterdir() if path.is_dir())
    assert FeatureCache(found).verify() == []
    return {"patches": digest(found / "patches.f16")}


class ToyScene:
    """An environment in which the expert succeeds three times out of four."""

    instruction, init_state_count, object_names = "pick up the milk", 50, ("milk_1", "butter_1")
    task = SimpleNamespace(task_id=0)
    solved_at_reset = False

    def reset(self, start: EpisodeStart) -> None: ...


def toy_episode(env: Any, rng: np.random.Generator, *_: Any) -> dict[str, Any] | None:
    if rng.random() < 0.25:
        return None
    steps = int(rng.integers(4, 9))
    return {
        "images": rng.integers(0, 255, (steps, 2, 16, 16, 3), dtype=np.uint8),
        "state": rng.normal(size=(steps, 8)).astype(np.float32),
        "action": rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        "header": {"noise": 0.0, "recovery": False},
    }


def toy_collect(config: collect.CollectConfig) -> dict[str, Any]:
    with (
        mock.patch.object(collect._Recorder, "_scene", return_value=ToyScene()),
        mock.patch.object(collect, "record_episode", toy_episode),
    ):
        return COLLECT(config)


COLLECT = collect.run


def record(folder: Path) -> None:
    toy_collect(
        collect.CollectConfig(out=folder / "set", tasks=[0, 3], episodes=3, workers=1, layout="drawn")
    )


def recorded(folder: Path) -> dict[str, Any]:
    root = folder / "set"
    files = sorted(path for part in ("data", "videos") for path in (root / part).rglob("*") if path.is_file())
    rest = [root / "meta" / name for name in ("stats.json", "fovea_episodes.jsonl", "fovea.json")]
    assert len(open_dataset(root).fingerprint) == 64
    return {path.relative_to(root).as_posix(): digest(path) for path in [*files, *rest]}


class ToyWorker:
    """A simulator whose episodes last three steps; every second one succeeds."""

    def __init__(self) -> None:
        self.reply: tuple[str, Any] = ("ready", None)
        self.steps = 0

    def send(self, message: Any) -> None:
        if isinstance(message, dict):
            self.start, self.steps = message["start"], 0
        else:
            self.steps += 1
        self.reply = ("observe", {}) if self.steps < 3 else ("done", self.outcome())

    def outcome(self) -> dict[str, Any]:
        close = {"object": "milk_1", "right": True, "step": 1, "distance": 0.01, "target_distance": 0.01}
        return {
            "start": self.start,
            "instruction": "pick up the milk",
            "targets": ["milk_1"],
            "success": self.start["seed"] % 2 == 0,
            "steps": 3,
            "max_steps": 3,
            "first_lifted": None,
            "first_close": close,
            "final": {"gripper_to_target": 0.02, "target_to_place": 0.1},
            "seconds": 0.1,
        }

    def receive(self) -> tuple[str, Any]:
        return self.reply

    def stop(self) -> None: ...


class ToyEngine:
    """Simulators in this process, so that one signal ends all."""

    def employ(self, render: dict[str, Any]) -> ToyWorker:
        return ToyWorker()

    def wait(self, workers: Sequence[ToyWorker]) -> list[ToyWorker]:
        return list(workers)

    def close(self) -> None: ...


class ToyActor:
    """Stands still; is called as the weights it stands for."""

    has_maps = False

    def __init__(self, identity: str) -> None:
        self.identity = identity

    @classmethod
    def load(cls, checkpoint: Path) -> "ToyActor":
        return cls(digest(checkpoint / "model.safetensors")[:16])

    def new_episode(self, seed: int) -> None: ...

    def batch(self, observations: Sequence[Any]) -> Sequence[Any]:
        return observations

    def act(self, states: Sequence[Any], batch: Sequence[Any]) -> np.ndarray:
        return np.zeros((len(batch), 7))

    def play(self, states: Sequence[Any], batch: Sequence[Any], every_frame: Sequence[bool]) -> np.ndarray:
        return self.act(states, batch)[:, None]


def evaluate(folder: Path) -> None:
    starts = drawn("libero_object", [0, 4], 6, seed=1)
    closed_loop.evaluate(ToyActor("toy"), starts, folder, engine=ToyEngine(), workers=2, progress=False)


def evaluated(folder: Path) -> dict[str, Any]:
    records = [without_clock(line) for line in closed_loop.read_records(folder / "episodes.jsonl")]
    return {"records": sorted(records, key=lambda line: line["id"])}


def reproduce(folder: Path) -> None:
    def toy_train(data: Path, policy: Any, training: Any, out: Path) -> Any:
        assert len(open_dataset(data).fingerprint) == 64
        return toy_training.run(out, steps=6, save_every=2, seed=["early", "late"].index(policy.fusion))

    with (
        mock.patch("fovea.sim.collect.run", toy_collect),
        mock.patch("fovea.pipelines.learn.train_policy", toy_train),
        mock.patch("fovea.evaluation.actor.Actor", ToyActor),
        mock.patch("fovea.evaluation.closed_loop.LocalEngine", ToyEngine),
    ):
        config = first.FirstConfig(
            out=folder / "study",
            results=folder / "first.md",
            demonstrations=1,
            steps=6,
            episodes=1,
            workers=1,
        )
        first.run(config)


def reproduced(folder: Path) -> dict[str, Any]:
    outcome = json.loads((folder / "first.json").read_text())
    table = [
        line for line in (folder / "first.md").read_text().splitlines() if "this machine's CPU" not in line
    ]
    return {"methods": outcome["methods"], "collected": outcome["collected"], "table": table}


JOBS: dict[str, tuple[Callable[[Path], None], Callable[[Path], dict[str, Any]]]] = {
    "train": (train, trained),
    "collect": (record, recorded),
    "cache": (cache, cached),
    "evaluate": (evaluate, evaluated),
    "reproduce": (reproduce, reproduced),
}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_clock(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in UNSTABLE}
