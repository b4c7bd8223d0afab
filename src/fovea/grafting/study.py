"""A grafting study in a folder: tokens first, then every cell once; whatever is there already is not done again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fovea.data.dataset import open_dataset
from fovea.data.files import locked, read_json, write_json
from fovea.encoders.base import VisionEncoder
from fovea.errors import FoveaError
from fovea.grafting.cells import Cell, Plan, native_source
from fovea.grafting.fan_out import EngineName, run_jobs
from fovea.grafting.loading import backbone_config, checkpoint_folder, checkpoint_in, load_backbone
from fovea.grafting.runs import BackbonePlace, Job
from fovea.grafting.samples import Samples
from fovea.grafting.settings import Recipe, SampleSettings, ScoreSettings
from fovea.grafting.tokens import NativeVision, TokenPlace, create_encoder_of, store_tokens
from fovea.progress import progress_bar

RUNS = "runs"
FORMAT = 1  # of records: a change of what a run computes makes earlier ones void


@dataclass(frozen=True)
class StudySettings:
    """Where things are, and how runs are done.

    Attributes:
        out: folder of the study.
        data: folder that holds a data set for every suite.
        backbones: folder of backbones that were trained here.
        samples, recipe, score: see there.
        cache: root of the feature cache; default the user's own.
        device: for the backbones.
        tokenizer: of the backbones, if not the one that their checkpoints name.
        workers: processes.
        engine, address: see `run_jobs`.
    """

    out: Path
    data: Path = Path("outputs/data")
    backbones: Path | None = None
    samples: SampleSettings = field(default_factory=SampleSettings)
    recipe: Recipe = field(default_factory=Recipe)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    cache: Path | None = None
    device: str = "cpu"
    tokenizer: str | None = None
    workers: int = 2
    engine: EngineName = "local"
    address: str | None = None

    def resolved(self) -> "StudySettings":
        """With folders that mean the same to a process that stands elsewhere."""
        folders = {name: getattr(self, name) for name in ("out", "data", "backbones", "cache")}
        absolute = {name: path and path.absolute() for name, path in folders.items()}
        words = self.tokenizer
        if words is not None and Path(words).is_dir():  # else the name of a repository
            words = str(Path(words).absolute())
        return replace(self, tokenizer=words, **absolute)


def run_study(plan: Plan, settings: StudySettings, *, progress: bool = True) -> dict[str, Any]:
    """Run what is missing of a study.

    Returns:
        `records` of all cells in the order of the plan, `suites` (what was sampled), `tokens` (seconds and sizes of
        encoding, per suite and source).

    Raises:
        FoveaError: a missing data set, backbone or encoder; whatever a run raises. What was finished is kept.
    """
    settings = settings.resolved()  # a worker of another machine stands elsewhere
    roots = {suite: suite_folder(settings.data, suite).absolute() for suite in plan.suites}
    check_tokenizer(plan, settings)
    with locked(settings.out / "lock", wait=False):
        samples = {suite: Samples(open_dataset(root), settings.samples) for suite, root in roots.items()}
        places, identities = prepare_tokens(plan, settings, samples, progress=progress)
        jobs = [_job(cell, places[cell.suite], identities, samples, roots, settings) for cell in plan.cells()]
        records = _run_missing(jobs, settings, progress=progress)
    return {
        "records": records,
        "suites": {suite: samples[suite].describe() for suite in plan.suites},
        "tokens": {
            suite: {source: place.asdict() for source, place in sources.items()}
            for suite, sources in places.items()
        },
    }


def suite_folder(data: Path, suite: str) -> Path:
    """The data set of a suite: a folder of its name, or the folder itself if it is one.

    Raises:
        FoveaError: there is none.
    """
    for folder in (data / suite, Path(suite)):
        if (folder / "meta" / "info.json").is_file():
            return folder
    raise FoveaError(
        f"expected demonstrations of {suite} in {data / suite}, found none; "
        f"`fovea collect --suite {Path(suite).name} --out {data / suite}` records some"
    )


def check_tokenizer(plan: Plan, settings: StudySettings) -> None:
    """One tokenizer is of one kind of backbone.

    Raises:
        FoveaError: backbones of several kinds; a backbone that is missing or of another policy.
    """
    if settings.tokenizer is None:
        return
    folders = [checkpoint_folder(name, settings.backbones) for name in plan.backbones]
    if len(kinds := {backbone_config(folder).type for folder in folders}) > 1:
        raise FoveaError(
            "--tokenizer: expected backbones of one kind, which share a vocabulary, got "
            f"{' and '.join(sorted(kinds))}; put each one's tokenizer into a folder vlm beside its checkpoint"
        )


def prepare_tokens(
    plan: Plan, settings: StudySettings, samples: dict[str, Samples], *, progress: bool = True
) -> tuple[dict[str, dict[str, TokenPlace]], dict[str, str]]:
    """Compute the tokens that the plan's cells read.

    Returns:
        suite -> source -> where they lie; backbone -> its identity.
    """
    console, cells = Console(stderr=True, quiet=not progress), plan.cells()
    places: dict[str, dict[str, TokenPlace]] = {suite: {} for suite in plan.suites}
    identities, sides = {}, {}

    def store(source: str, encoder: VisionEncoder, wanted: set[int]) -> None:
        for suite in plan.suites:
            console.print(f"tokens of {source} on {suite}")
            places[suite][source] = store_tokens(
                encoder,
                samples[suite].frames,
                wanted,
                settings.out / "blank",
                root=settings.cache,
                workers=settings.workers,
                progress=progress,
            )

    read = {cell.source for cell in cells} | {native_source(name, tower=False) for name in plan.backbones}
    for name in plan.backbones:
        backbone = load_backbone(
            name, root=settings.backbones, device=settings.device, tokenizer=settings.tokenizer
        )
        identities[name], sides[name] = backbone.identity, backbone.side
        for tower in (False, True):
            if (source := native_source(name, tower=tower)) in read:
                store(source, NativeVision(backbone, tower=tower), {backbone.side})
        del backbone  # the runs load it themselves
    for name in plan.encoders:
        encoder = create_encoder_of(name).to(settings.device)
        store(name, encoder, {c.side or sides[c.backbone] for c in cells if c.source == name})
    return places, identities


def job_id(
    cell: Cell,
    backbone: str,
    tokens: dict[str, TokenPlace],
    samples: Samples,
    settings: StudySettings,
) -> str:
    """16 hexadecimal digits of all that decides a cell's outcome."""
    parts = [
        FORMAT,
        cell.asdict() | {"backbone": None, "encoder": None, "suite": None},
        backbone,
        tokens[cell.source].identity,
        samples.describe(),
        settings.recipe.decides() if cell.trains else None,
        settings.score.decides(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _job(
    cell: Cell,
    places: dict[str, TokenPlace],
    identities: dict[str, str],
    samples: dict[str, Samples],
    roots: dict[str, Path],
    settings: StudySettings,
) -> Job:
    needed = {cell.source, native_source(cell.backbone, tower=False)}
    tokens = {source: places[source] for source in sorted(needed)}
    folder = checkpoint_in(Path(cell.backbone))  # a path; else a name under --backbones, or a released one
    name = job_id(cell, identities[cell.backbone], tokens, samples[cell.suite], settings)
    return Job(
        cell,
        name,
        BackbonePlace(
            str(folder.absolute()) if folder else cell.backbone,
            settings.backbones,
            settings.device,
            settings.tokenizer,
        ),
        roots[cell.suite],
        tokens,
        settings.samples,
        settings.recipe,
        settings.score,
        settings.out / RUNS / f".{name}.unfinished.safetensors",
    )


def _run_missing(jobs: Sequence[Job], settings: StudySettings, *, progress: bool) -> list[dict[str, Any]]:
    """The records of all jobs, in their order."""
    folder = settings.out / RUNS
    missing = {job.id: job for job in jobs if not (folder / f"{job.id}.json").is_file()}
    with progress_bar(visible=progress) as bar:
        task = bar.add_task("runs", total=len(jobs), completed=len(jobs) - len(missing), note="")
        for record in run_jobs(
            list(missing.values()),
            workers=settings.workers,
            engine=settings.engine,
            address=settings.address,
        ):
            write_json(folder / f"{record['id']}.json", record)
            done = missing[record["id"]].cell
            bar.update(task, advance=1, note=f"{done.backbone}, {done.suite}: {record['label']}")
    kept = [read_json(folder / f"{job.id}.json", "record of a run") for job in jobs]
    # the same outcome may have been computed under other names: those of this plan count
    return [
        record | {"cell": job.cell.asdict(), "label": job.cell.label}
        for record, job in zip(kept, jobs, strict=True)
    ]
