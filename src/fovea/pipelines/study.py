"""What studies over suites share: collect, cache, run the cells, write the page; each study adds methods and a page."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from fovea.errors import FoveaError
from fovea.pipelines.ladder import Cell, Method, TestSet, cells, climb, demonstrations, keep
from fovea.pipelines.ladder_tables import summary
from fovea.pipelines.stages import typed_flags
from fovea.pipelines.study_data import collect_all, collections
from fovea.sim.collect import CollectConfig
from fovea.training.config import TrainConfig

Scale = Literal["cpu", "smoke"]
FREE = ("out", "results", "data", "records", "page_only", "workers")  # flags that decide no outcome


@dataclass(frozen=True)
class Group:
    """What one policy learns and plays.

    Attributes:
        name: empty where a method has one policy.
        data: demonstrations.
        tests: names of test sets; empty for all.
    """

    name: str
    data: tuple[CollectConfig, ...]
    tests: tuple[str, ...] = ()


@dataclass
class StudyConfig(ABC):
    """A study.

    Attributes:
        scale: `cpu`: hours on two cores; `smoke`: minutes, too small to mean anything.
        out: folder of data and cells; a second run goes on where the first was stopped.
        results: where the page goes; its numbers go beside it as JSON.
        data: folder of the demonstrations, which studies share.
        records: folder with records of finished cells, of this machine or another: what is there is not run again, and
            what finishes is put there. Without it everything runs here.
        page_only: run nothing; write the page from the cells that are done.
        methods: names of the methods to run; empty takes all.
        suites: which suites are learned and played; empty takes all of the study.
        drawn: demonstrations a task from layouts drawn anew.
        official: demonstrations a task from official initial states, 0 for none.
        steps: training steps of every method.
        seeds: trainings of every method, seeds 0, 1 and so on.
        episodes: test episodes a task and layout.
        workers: processes, one core each.
    """

    SUITES: ClassVar[tuple[str, ...]]

    scale: Scale = "cpu"
    out: Path = Path("outputs/study")
    results: Path = Path("results/study.md")
    data: Path = Path("outputs/demonstrations")
    records: Path | None = None
    page_only: bool = False
    methods: list[str] = field(default_factory=list)
    suites: list[str] = field(default_factory=list)
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
        if self.page_only and self.records is not None and not self.records.is_dir():
            raise FoveaError(
                f"--records: expected a folder of records for the page, found none at {self.records}"
            )
        if self.official < 0:
            raise FoveaError(f"--official: expected at least 0, got {self.official}")
        names = self.method_names()
        if unknown := [name for name in self.methods if name not in names]:
            raise FoveaError(f"--methods: expected some of {', '.join(names)}, got {', '.join(unknown)}")
        self.suites = self.suites or list(self.SUITES)
        if unknown := [suite for suite in self.suites if suite not in self.SUITES]:
            raise FoveaError(f"--suites: expected some of {', '.join(self.SUITES)}, got {', '.join(unknown)}")
        if self.scale == "smoke":
            if self.results == type(self).results:  # no study's page gives way to one that means nothing
                self.results = self.out / self.results.name
            self.drawn, self.official, self.steps, self.seeds, self.episodes = 1, 0, 20, 1, 1

    @property
    def fewer(self) -> int:
        """Test episodes a task where there are fewer: drawn layouts, and checkpoints on the way."""
        return max(1, self.episodes // 2)

    def chosen(self) -> str:
        """The flags that decide the outcome and are not as the study has them, as they were typed."""
        return typed_flags(self, type(self)(scale=self.scale), FREE)

    @abstractmethod
    def method_names(self) -> list[str]:
        """All methods, in the order of the tables' rows."""

    @abstractmethod
    def policy(self, method: str) -> Any:
        """A method's configuration."""

    @abstractmethod
    def tests(self) -> list[TestSet]:
        """What is played."""

    @abstractmethod
    def page(self, outcome: dict[str, Any]) -> str:
        """The page in Markdown; `outcome` has `demonstrations`, `cells` and `summary`."""

    def tests_of(self, method: str) -> tuple[str, ...]:
        """Names of the test sets that a method plays; empty for all."""
        return ()

    def prepare(self, methods: Sequence[str]) -> None:  # noqa: B027  most studies need nothing
        """Make what these methods need besides demonstrations; what is there stays."""

    def encoder_recipe(self, method: str) -> dict[str, Any] | None:
        """What the encoder that `prepare` trains for a method follows from; None where it trains none."""
        return None

    def training(self, method: str) -> TrainConfig:
        """A method's budget: the same for all unless the study says so."""
        return TrainConfig(steps=self.steps, save_every=1000, validate_every=1000, validation_windows=128)

    def collections(self) -> list[CollectConfig]:
        """The demonstrations of every suite."""
        return collections(
            self.data, self.suites, drawn=self.drawn, official=self.official, workers=self.workers
        )

    def groups(self) -> list[Group]:
        """What each policy of a method learns: here one learns everything."""
        return [Group("", tuple(self.collections()))]

    def groups_of(self, method: str) -> list[Group]:
        """What this method's policies learn."""
        return self.groups()

    def cells(self) -> list[Cell]:
        """Every method's policies with every seed."""
        return cells(
            [
                Method(
                    name,
                    self.policy(name),
                    self.training(name),
                    group.data,
                    self.tests_of(name) or group.tests,
                    group.name,
                    self.encoder_recipe(name),
                )
                for name in (self.methods or self.method_names())
                for group in self.groups_of(name)
            ],
            self.tests(),
            range(self.seeds),
            self.out / "cells",
            self.records,
        )


def run(config: StudyConfig) -> dict[str, Any]:
    """Run or go on; writes the page and its numbers, and returns them.

    Raises:
        FoveaError: from any of the stages; what was done is kept.
    """
    if not config.page_only:
        run_cells(config)
    return write_page(config)


def run_cells(config: StudyConfig) -> None:
    """Run the cells that are not done: collect and encode what they learn, then train and play them."""
    from fovea.data.dataset import open_dataset
    from fovea.data.feature_build import build_features
    from fovea.pipelines.policies import encoder_of

    todo = config.cells()
    missing = [cell for cell in todo if not cell.done()]
    wanted = {its.out for cell in missing for its in cell.method.data}
    collect_all([collection for collection in config.collections() if collection.out in wanted])
    config.prepare(list(dict.fromkeys(cell.method.name for cell in missing)))
    encoders: dict[str, Any] = {}
    read: dict[tuple[str, Path], None] = {}
    for cell in missing:
        policy = cell.method.policy
        if not policy.uses_pixels and (encoder := encoder_of(policy)) is not None:
            encoders.setdefault(encoder.identity, encoder)
            read |= {(encoder.identity, its.out): None for its in cell.method.data}
    for identity, folder in read:  # before the cells, which would wait for one another
        build_features(encoders[identity], open_dataset(folder), workers=config.workers)
    climb(todo, workers=config.workers)


def write_page(config: StudyConfig) -> dict[str, Any]:
    """Write the page from the cells that are done, and the numbers beside it as JSON."""
    done = []
    for cell in config.cells():
        if (one := cell.outcome()) is not None:
            keep(cell, one)
            done.append(one)
    outcome = {"demonstrations": demonstrations(done), "cells": done, "summary": summary(done)}
    config.results.parent.mkdir(parents=True, exist_ok=True)
    config.results.write_text(config.page(outcome))
    numbers = {name: outcome[name] for name in ("demonstrations", "summary")}
    config.results.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    return outcome
