"""`fovea reproduce ef-vla`: the tables of the paper (Table 1, Fig. 5) with what a CPU can train.

EF-VLA, LF-VLA and the ablations learn LIBERO's thirty tasks (spatial, object, goal) from the same demonstrations of the
scripted expert, with the same token grid, steps and seeds, and play official states, layouts drawn anew and the unseen
tasks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fovea.errors import FoveaError
from fovea.pipelines.ladder import Cell, Method, TestSet, cells, climb, outcomes
from fovea.pipelines.ladder_tables import summary
from fovea.pipelines.study_data import collect_all, collections, drawn_tests, official_tests, unseen_tests
from fovea.sim.collect import CollectConfig
from fovea.training.config import TrainConfig

if TYPE_CHECKING:
    from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig

SUITES = ("libero_spatial", "libero_object", "libero_goal")
SHARED: dict[str, Any] = {"device": "cpu", "value_join": "concat"}
EARLY: dict[str, Any] = {"temperature": 0.035, "text_dropout": 0.2, "value_content_dropout": 0.3}
METHODS: dict[str, dict[str, Any]] = {
    "EF-VLA": EARLY,
    "LF-VLA": {"fusion": "late"},
    "w/o f_e": {**EARLY, "use_proprio": False},
    "w/o f'_l": {**EARLY, "use_text_pooling": False, "text_dropout": 0.0},
}
PAPER = {  # Table 1: training tasks, unseen tasks
    "EF-VLA": ("68", "62"),
    "LF-VLA": ("29", "4"),
    "w/o f_e": ("40", "29"),
    "w/o f'_l": ("57", "53"),
    "w/o CLIP vision": ("1", "11"),
    "finetuned CLIP": ("26", "15"),
}
Scale = Literal["cpu", "smoke"]


@dataclass
class EFVLAStudyConfig:
    """The study.

    Attributes:
        scale: `cpu`: hours on two cores; `smoke`: minutes, too small to mean anything.
        out: folder of data, cells and pages; a second run goes on where the first was stopped.
        results: where the page goes.
        methods: names of the methods to run; empty takes all.
        drawn, official: demonstrations a task, from layouts drawn anew and from official initial states.
        steps: training steps of every method.
        seeds: trainings of every method, seeds 0, 1, ...
        episodes: test episodes a task and layout; twice as many of the unseen tasks.
        workers: processes, one core each.
    """

    scale: Scale = "cpu"
    out: Path = Path("outputs/ef-vla")
    results: Path = Path("results/ef_vla.md")
    methods: list[str] = field(default_factory=list)
    drawn: int = 12
    official: int = 8
    steps: int = 6000
    seeds: int = 2
    episodes: int = 3
    workers: int = 2

    def __post_init__(self) -> None:
        if self.scale not in ("cpu", "smoke"):
            raise FoveaError(f"--scale: expected cpu or smoke, got {self.scale!r}")
        for name in ("drawn", "steps", "seeds", "episodes", "workers"):
            if getattr(self, name) < 1:
                raise FoveaError(f"--{name}: expected at least 1, got {getattr(self, name)}")
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise FoveaError(f"--methods: expected some of {', '.join(METHODS)}, got {', '.join(unknown)}")
        if self.scale == "smoke":
            self.drawn, self.official, self.steps, self.seeds, self.episodes = 1, 0, 20, 1, 1

    def collections(self) -> list[CollectConfig]:
        """The demonstrations of every suite."""
        return collections(
            self.out / "data", SUITES, drawn=self.drawn, official=self.official, workers=self.workers
        )

    def policy(self, changes: dict[str, Any]) -> "EFVLAConfig":
        """A method's configuration: sizes, encoder, positions and optimiser are shared."""
        from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig

        return EFVLAConfig.preset("tiny", **{**SHARED, **changes})

    def cells(self) -> list[Cell]:
        """Every method with every seed."""
        training = TrainConfig(steps=self.steps, save_every=1000, validate_every=1000, validation_windows=128)
        data = tuple(config.out for config in self.collections())
        chosen = {name: METHODS[name] for name in (self.methods or METHODS)}
        return cells(
            [Method(name, self.policy(changes), training, data) for name, changes in chosen.items()],
            self.tests(),
            range(self.seeds),
            self.out / "cells",
        )

    def tests(self) -> list[TestSet]:
        """What is played, by every method."""
        return [
            *official_tests(SUITES, self.episodes),
            *drawn_tests(SUITES, self.episodes),
            *unseen_tests(2 * self.episodes),
        ]


def run(config: EFVLAStudyConfig) -> dict[str, Any]:
    """Run or go on; writes the page and returns its numbers.

    Raises:
        FoveaError: from any of the stages; what was done is kept.
    """
    from fovea.data.dataset import open_dataset
    from fovea.data.feature_build import build_features
    from fovea.encoders import create_encoder

    collected = collect_all(config.collections())
    todo = config.cells()
    first = todo[0].method.policy
    encoder = create_encoder(first.encoder, tap=first.tap)
    for folder in todo[0].method.data:  # before the cells, which would wait for one another
        build_features(encoder, open_dataset(folder), workers=config.workers)
    climb(todo, workers=config.workers)
    return write_page(config, collected, list(outcomes(todo)))


def write_page(
    config: EFVLAStudyConfig, collected: dict[str, Any], done: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The page in Markdown and its numbers as JSON, from the cells that are done."""
    from fovea.pipelines.ef_vla_page import page

    outcome = {"collected": collected, "cells": done, "summary": summary(done)}
    config.results.parent.mkdir(parents=True, exist_ok=True)
    config.results.write_text(page(config, outcome))
    numbers = {"collected": collected, "summary": outcome["summary"]}
    config.results.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    return outcome
