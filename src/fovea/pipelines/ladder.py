"""Studies that compare: methods x seeds, each trained and then played on the same test episodes.

A cell is one method with one seed: it trains, then plays every test set, in a process and a folder of its own, on one
core. Cells run seed by seed, several at a time; what is done stays done, so a study goes on where it was stopped, and
its page can be written from whatever cells there are. Records of finished cells are small JSON files that can be kept
apart from the folders where they ran, committed for instance, so that a study goes on on another machine.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fovea.data.files import atomic_write, differing, read_json, write_json
from fovea.errors import FoveaError
from fovea.pipelines.side_by_side import side_by_side, trained_steps
from fovea.sim import EpisodeStart
from fovea.sim.collect import CollectConfig
from fovea.training.checkpoint import comparable
from fovea.training.config import TrainConfig

CELL = "cell.json"  # in a cell's folder, once it is done


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        name: its row in the tables.
        policy: its configuration, one of `fovea.pipelines.policies.CONFIGS`.
        training: its budget; the seed is the cell's.
        data: the demonstrations it learns from, as they were asked for.
        tests: names of the test sets it plays; empty for all.
        group: what it learns, where a method has several policies ("libero_goal").
        encoder: how its encoder is trained, where the study does that: what the weights follow from, wherever they are.
    """

    name: str
    policy: Any
    training: TrainConfig
    data: tuple[CollectConfig, ...]
    tests: tuple[str, ...] = ()
    group: str = ""
    encoder: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TestSet:
    """Episodes that no choice is made on.

    Attributes:
        name: its column in the tables.
        starts: how they begin.
        step: training step of the checkpoint that plays; None takes the last.
    """

    __test__ = False  # pytest: no test of yours

    name: str
    starts: tuple[EpisodeStart, ...]
    step: int | None = None

    def digest(self) -> str:
        """Of its starts: 16 hexadecimal digits."""
        told = json.dumps([vars(start) for start in self.starts], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Cell:
    """One method with one seed, in its folder.

    Attributes:
        records: folder with records of cells that ran elsewhere, and where this one's goes when it is done.
    """

    method: Method
    seed: int
    tests: tuple[TestSet, ...]
    folder: Path
    records: Path | None = None

    @property
    def label(self) -> str:
        return ", ".join(part for part in (self.method.name, self.method.group, f"seed {self.seed}") if part)

    @property
    def episodes(self) -> int:
        """Test episodes in all."""
        return sum(len(test.starts) for test in self.tests)

    def progress(self) -> str:
        """How far it is."""
        played = sum(
            len((path / "episodes.jsonl").read_bytes().splitlines())
            for path in (self.folder / "episodes").glob("*")
            if (path / "episodes.jsonl").is_file()
        )
        if played:
            return f"{self.label}: episode {played}/{self.episodes}"
        return f"{self.label}: step {trained_steps(self.folder)}/{self.method.training.steps}"

    @property
    def record(self) -> Path | None:
        """Its file among the records."""
        parts = (self.method.name, self.method.group, f"seed {self.seed}")
        name = "-".join(slug(part) for part in parts if part)
        return None if self.records is None else self.records / f"{name}.json"

    def done(self) -> bool:
        """Whether all of it ran, here or elsewhere, with the settings it has now."""
        return self.outcome() is not None

    def outcome(self) -> dict[str, Any] | None:
        """What it left behind; None while it is not done.

        Raises:
            FoveaError: its episodes are of another release of MuJoCo, or its place among the records is taken by a cell
                with other settings.
        """
        here, elsewhere = self._found(self.folder / CELL), self._found(self.record)
        return here or elsewhere

    def _found(self, path: Path | None) -> dict[str, Any] | None:
        """The outcome in a file, if it has these settings; see `outcome`."""
        if path is None or not path.is_file():
            return None
        outcome = read_json(path, "study cell")
        if different := self._different(outcome["settings"]):
            if path == self.record:
                raise FoveaError(
                    f"{path} is of a study with other settings (different: {', '.join(different)}); choose another "
                    "--records"
                )
            return None
        ran = outcome.get("mujoco")
        if ran is None or release(ran) != release():
            raise FoveaError(
                f"{path}: its episodes ran under MuJoCo {ran or 'of an unknown release'}, but {version('mujoco')} is "
                "installed; they are not to be mixed: install that one, or take another --out and --records"
            )
        return outcome

    def _different(self, settings: dict[str, Any]) -> list[str]:
        """Names of what is not as in the settings of a cell that ran."""
        import draccus

        usual = {"policy": draccus.encode(type(self.method.policy)())}
        before, now = comparable(settings, self.settings(), usual)
        return differing(before, now)

    def settings(self) -> dict[str, Any]:
        """What decides the outcome, as JSON."""
        import draccus

        settings = {
            "policy": draccus.encode(self.method.policy),
            "training": self.method.training.recipe() | {"seed": self.seed},
            "data": {its.out.name: its.identity() | {"episodes": its.episodes} for its in self.method.data},
            "tests": {test.name: [test.step, len(test.starts), test.digest()] for test in self.tests},
        }
        if self.method.encoder is not None:  # its folder says nothing: another machine has another one
            settings["policy"]["encoder"] = "trained by the study"
            settings["encoder"] = dict(self.method.encoder)
        return json.loads(json.dumps(settings, default=str))


def release(version_of_mujoco: str | None = None) -> tuple[int, ...]:
    """(3, 3) of "3.3.7", or of the MuJoCo that is installed: episodes of another release are other episodes."""
    return tuple(int(part) for part in (version_of_mujoco or version("mujoco")).split(".")[:2])


def cells(
    methods: Sequence[Method],
    tests: Sequence[TestSet],
    seeds: Sequence[int],
    folder: Path,
    records: Path | None = None,
) -> list[Cell]:
    """All cells, seed by seed, so that a study which is stopped early has every method once.

    Args:
        records: see `Cell`.

    Raises:
        FoveaError: a method names a test set that does not exist, or two methods share a name.
    """
    known = {test.name: test for test in tests}
    names = {(slug(method.name), slug(method.group)) for method in methods}
    if len(names) != len(methods) or len(known) != len(tests):
        raise FoveaError("expected every method and every test set once; two of them share a name")
    for method in methods:
        if strange := [name for name in method.tests if name not in known]:
            raise FoveaError(f"{method.name}: expected test sets among {', '.join(known)}, got {strange}")
    return [
        Cell(
            method,
            seed,
            tuple(known[name] for name in (method.tests or known)),
            folder / slug(method.name) / slug(method.group) / f"seed{seed}",
            records,
        )
        for seed in seeds
        for method in methods
    ]


def climb(todo: Sequence[Cell], *, workers: int, progress: bool = True) -> None:
    """Run every cell that is not done, `workers` at a time, each on one core.

    Raises:
        FoveaError: from a cell, with its name; the others that run are waited for, and what is done stays.
    """
    waiting = [cell for cell in todo if not cell.done()]
    side_by_side(
        waiting, run_cell, title="cells", workers=workers, done=len(todo) - len(waiting), progress=progress
    )


def run_cell(cell: Cell) -> None:
    """Train and play one cell in this process, on one core."""
    from fovea.evaluation.actor import Actor
    from fovea.evaluation.closed_loop import evaluate
    from fovea.pipelines.learn import train_policy, trained_on
    from fovea.pipelines.stages import current_commit

    settings = cell.settings()  # before the policy fills in what its encoder is
    training = replace(cell.method.training, seed=cell.seed, threads=1)
    data = [its.out for its in cell.method.data]
    result = train_policy(data, cell.method.policy, training, cell.folder, workers=1)
    outcome: dict[str, Any] = {
        "method": cell.method.name,
        "group": cell.method.group,
        "seed": cell.seed,
        "commit": current_commit(),
        "mujoco": version("mujoco"),
        "settings": settings,
        "demonstrations": {folder.name: _size(folder) for folder in data},
        "training": {
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "loss": result.loss,
            "validation_loss": result.validation_loss,
        },
        "tests": {},
    }
    seconds = result.seconds
    for test in cell.tests:
        policy = result.policy_path if test.step is None else _checkpoint(cell.folder, test.step)
        records = evaluate(
            Actor.load(policy),
            test.starts,
            cell.folder / "episodes" / slug(test.name),
            workers=1,
            trained_on=trained_on(policy),
            label=f"{cell.label}: {test.name}",
        )
        outcome["tests"][test.name] = [_kept(record) for record in records]
        seconds += sum(record["wall_seconds"] for record in records)
    outcome["seconds"] = round(seconds, 1)  # of all runs of this cell
    write_json(cell.folder / CELL, outcome)
    keep(cell, outcome)


def keep(cell: Cell, outcome: Mapping[str, Any]) -> None:
    """Put a finished cell's record where records are kept, if anywhere: one line, to be committed. One that is there
    stays, as `Cell.outcome` found it fitting."""
    if cell.record is not None and not cell.record.is_file():
        with atomic_write(cell.record) as file:
            file.write(json.dumps(outcome, separators=(",", ":"), allow_nan=False).encode() + b"\n")


def _size(data: Path) -> dict[str, int]:
    from fovea.data.dataset import open_dataset

    dataset = open_dataset(data)
    return {"episodes": len(dataset.episodes), "frames": len(dataset.state)}


def _checkpoint(folder: Path, step: int) -> Path:
    path = folder / "checkpoints" / f"{step:06d}" / "pretrained_model"
    if not path.is_dir():
        raise FoveaError(f"expected a checkpoint of step {step} at {path}, found none; check save_every")
    return path


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """What tables are made of."""
    names = ("start", "instruction", "success", "steps", "first_lifted", "first_close", "final", "seconds")
    return {name: record[name] for name in names}


def demonstrations(done: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """`episodes` and `frames` of all data sets that cells learned from, each counted once."""
    sizes = {name: size for outcome in done for name, size in outcome["demonstrations"].items()}
    return {what: sum(size[what] for size in sizes.values()) for what in ("episodes", "frames")}


def slug(name: str) -> str:
    """A folder name: 'w/o f_e' -> 'w-o-f-e'."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
