"""LIBERO's official demonstrations (HDF5, one file a task) as a LeRobotDataset v3 with the keys of `fovea collect`.

Finished demonstrations wait in a staging folder; the data set appears whole at the end, as with collection.

Non-obvious: pictures in the files stand on their heads and are turned by 180 degrees (see `fovea.sim.render.orient`).
`ee_states` is robosuite's position and axis-angle (angle 0 to 2 pi) of the hand, the gripper acts -1 (open) to 1
(close): both are ours already. LIBERO's script stored each picture AFTER the action of the same index; its own loaders
pair them as stored, and so does `pairing="stored"`. `pairing="causal"` gives each picture the action that came next.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fovea.data.files import read_json, require_space
from fovea.data.import_libero_files import Demo, LiberoFile, arrays, open_file, outline
from fovea.data.record import RECORD, assemble, totals
from fovea.data.staging import StagedEpisodes, check_same, claimed, is_validation, write_episode
from fovea.errors import FoveaError
from fovea.progress import progress_bar

SHOWN = 20  # refused demonstrations that a message names


@dataclass(frozen=True)
class LiberoImportConfig:
    """What to import.

    Attributes:
        source: HDF5 files, or folders that hold some.
        out: folder of the data set; must not exist, unless it is the one to go on with.
        episodes: demonstrations to take of each file; default all.
        val_share: share of the demonstrations that are marked as validation episodes.
        instruction: "stored" in the file, or that of its "file_name", which is what evaluations use.
        pairing: pictures with the actions "stored" beside them, as LIBERO's loaders do, or "causal": with those that
            followed them (one step fewer).
        skip_bad: leave out demonstrations that cannot be used, and say which, instead of stopping.
    """

    source: list[Path] = field(default_factory=list)
    out: Path = Path("outputs/data/libero_import")
    episodes: int | None = None
    val_share: float = 0.08
    instruction: Literal["stored", "file_name"] = "stored"
    pairing: Literal["stored", "causal"] = "stored"
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not self.source:
            raise FoveaError("--source: expected HDF5 files or folders that hold some, got none")
        if self.episodes is not None and self.episodes < 1:
            raise FoveaError(f"--episodes: expected at least 1, got {self.episodes}")
        if not 0 <= self.val_share <= 1:
            raise FoveaError(f"--val_share: expected a share between 0 and 1, got {self.val_share}")

    def identity(self, files: list[Path]) -> dict[str, Any]:
        """What decides the imported episodes."""
        choices = asdict(self)
        for name in ("source", "out", "skip_bad"):
            choices.pop(name)
        return choices | {
            "format": "libero_hdf5",
            "files": {path.name: path.stat().st_size for path in files},
        }


def run(
    config: LiberoImportConfig,
    render: Callable[[int], dict[str, Any]] | None = None,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Import, or go on importing.

    Args:
        config: what.
        render: makes the render settings that the pictures were drawn with from their side in pixels; kept in the data
            set's meta/fovea.json.
        progress: show progress bars.

    Returns:
        `out`, `episodes`, `frames`, `refused` and `notes` (sentences).

    Raises:
        FoveaError: no such file, no HDF5, a demonstration that cannot be used (unless `skip_bad`), an `out` that holds
            something else, or a full disk.
    """
    files = find_files(config.source)
    identity = config.identity(files)
    if (config.out / RECORD).exists():
        record = read_json(config.out / RECORD, "record")
        check_same(record.get("import"), identity, config.out)
        return _summary(config.out, record)
    outlines = [outline(path) for path in files]
    refused = [problem for one in outlines for problem in one.problems]
    sides = {demo.side for one in outlines for demo in one.demos}
    if len(sides) > 1:
        refused.append(f"pictures have sides of {sorted(sides)} pixels; import those of one size at a time")
    if refused and (len(sides) > 1 or not config.skip_bad):
        raise FoveaError(_refusal(refused))
    jobs = _jobs(outlines, config.episodes)
    with claimed(config.out, identity) as staging:
        todo = [job for job in jobs if job.index not in StagedEpisodes(staging)]
        require_space(staging, sum(job.demo.bytes for job in todo), "staging the demonstrations")
        refused += _stage(config, staging, todo, len(jobs), progress)
        side = next(iter(sides), 0)
        meta = {
            "import": identity,
            "refused": refused,
            "notes": [note for one in outlines for note in one.notes],
            "render": render(side) if render else None,
        }
        assemble(staging, config.out, meta, progress=progress)
        shutil.rmtree(staging)
    return _summary(config.out, meta)


@dataclass(frozen=True)
class _Job:
    """One demonstration: its number in the data set and within its task."""

    index: int
    number: int
    file: LiberoFile
    demo: Demo


def find_files(source: list[Path]) -> list[Path]:
    """The HDF5 files that are meant, sorted by name.

    Raises:
        FoveaError: a path that does not exist, a folder without any, or two files of one name.
    """
    files: list[Path] = []
    for path in source:
        if not path.exists():
            raise FoveaError(f"expected HDF5 files at {path}, found nothing there")
        found = [path] if path.is_file() else [*path.rglob("*.hdf5"), *path.rglob("*.h5")]
        if not found:
            raise FoveaError(f"expected *.hdf5 files in {path}, found none")
        files += found
    files.sort(key=lambda path: path.name)
    names = [path.name for path in files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FoveaError(f"expected each file once, got {', '.join(twice)} several times")
    return files


def _jobs(outlines: list[LiberoFile], most: int | None) -> list[_Job]:
    jobs: list[_Job] = []
    for file in outlines:
        for number, demo in enumerate(file.demos[:most]):
            jobs.append(_Job(len(jobs), number, file, demo))
    return jobs


def _stage(
    config: LiberoImportConfig, staging: Path, todo: list[_Job], total: int, progress: bool
) -> list[str]:
    """Write what is missing; what is wrong with those that cannot be used."""
    refused = []
    with progress_bar(visible=progress) as bar:
        task = bar.add_task("importing", total=total, completed=total - len(todo), note="")
        for job in todo:
            try:
                _import(config, staging, job)
            except _Refused as problem:
                refused.append(str(problem))
                if not config.skip_bad:
                    raise FoveaError(_refusal(refused)) from problem
            bar.update(task, advance=1, note=f"{len(refused)} left out" if refused else "")
    return refused


class _Refused(Exception):
    """One demonstration that cannot be used; the text says which and why."""


def _import(config: LiberoImportConfig, staging: Path, job: _Job) -> None:
    file, demo = job.file, job.demo
    with open_file(file.path) as hdf5:
        try:
            episode = arrays(hdf5, demo, upright=file.upright)
        except (OSError, RuntimeError, KeyError, FoveaError) as error:
            raise _Refused(f"{file.path.name} {demo.name}: {error}") from error
    images, state, action = episode
    if config.pairing == "causal":
        images, state, action = images[:-1], state[:-1], action[1:]
    header = {
        "start": {"file": file.path.name, "demo": demo.name},
        "task": file.stored if config.instruction == "stored" else file.from_name,
        "split": "val" if is_validation(job.number, config.val_share) else "train",
    }
    write_episode(staging, job.index, images=images, state=state, action=action, header=header)


def _refusal(problems: list[str]) -> str:
    more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return (
        "these demonstrations cannot be used (--skip_bad leaves them out):\n  "
        + "\n  ".join(problems[:SHOWN])
        + more
    )


def _summary(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    return totals(out) | {"refused": record["refused"], "notes": record["notes"]}
