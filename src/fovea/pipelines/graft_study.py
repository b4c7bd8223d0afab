"""`fovea reproduce graft`: the grafting diagnostic from nothing, on one machine.

Two SmolVLA backbones of different size learn libero_spatial and libero_object from the scripted expert's
demonstrations; then every encoder is grafted onto each. Scale `paper` takes the released backbones instead, and
needs them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fovea.errors import FoveaError
from fovea.grafting.cells import CONTROLS, Plan
from fovea.grafting.settings import Recipe, SampleSettings, ScoreSettings, check_state_dropout
from fovea.pipelines.side_by_side import side_by_side, trained_steps
from fovea.sim.collect import CollectConfig
from fovea.training.config import TrainConfig

Scale = Literal["smoke", "cpu", "paper"]
SUITES = ["libero_spatial", "libero_object"]
EVALUATION_STATES = 30  # demonstrations start from the 30 states before
EVALUATION_STATES_LEFT = 20  # of a suite's fifty
# Flags that decide nothing, or that the page names
FREE = ("scale", "out", "results", "workers", "device", "seed")
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "backbones": ["smolvla-small", "smolvla-base"],
        "encoders": ["tiny", "random/tiny"],
        "tasks": [0],
        "demonstrations": 4,
        "backbone_steps": [6, 4],
        "episodes": 1,
        "seeds": 2,
        "samples": SampleSettings(train=48, held_out=12),
        "recipe": Recipe(steps=4, batch_size=4, warmup_steps=2),
        "score": ScoreSettings(euler_steps=4, flow_draws=1),
    },
    "cpu": {
        "backbones": ["smolvla-small", "smolvla-base"],
        "encoders": ["tiny", "tiny@attn_qk", "efficientnet_lite0", "random/tiny"],
        "tasks": [],
        "demonstrations": 10,
        "backbone_steps": [10000, 6000],
        "episodes": 2,
        "seeds": 3,
        "samples": SampleSettings(train=4000, held_out=240),
        "recipe": Recipe(steps=200),
        "score": ScoreSettings(),
    },
    "paper": {
        "backbones": ["smolvla-libero", "pi05-libero"],
        "encoders": ["siglip", "timm/vit_small_patch14_dinov2.lvd142m@224", "ViT-B-16/openai", "tiny"],
        "tasks": [],
        "demonstrations": 40,
        "backbone_steps": [],
        "episodes": 0,
        "seeds": 3,
        "samples": SampleSettings(train=8000, held_out=512),
        "recipe": Recipe(steps=2000),
        "score": ScoreSettings(),
    },
}


@dataclass(frozen=True)
class NativeJob:
    """A backbone to train, in a process of its own: see `train_native`."""

    label: str
    data: tuple[Path, ...]
    folder: Path
    config: TrainConfig
    state_dropout: float

    def progress(self) -> str:
        """How far it is."""
        return f"{self.label}: step {trained_steps(self.folder)}/{self.config.steps}"


def train_backbone(job: NativeJob) -> None:
    """Train a backbone, or go on with it."""
    from fovea.data.dataset import open_dataset
    from fovea.grafting.native_training import train_native

    datasets = [open_dataset(folder) for folder in job.data]
    train_native(job.label, datasets, job.folder, job.config, state_dropout=job.state_dropout)


@dataclass
class GraftStudyConfig:
    """The study. What is not given comes with the scale.

    Attributes:
        scale: smoke (minutes, means nothing), cpu (hours on a few cores), paper (released backbones, a GPU).
        out: folder of data, backbones and runs; a second run goes on where the first was stopped.
        results: where the page goes.
        backbones: sizes to train (smolvla-small, smolvla-base), or released backbones.
        encoders: candidates.
        suites: LIBERO suites.
        tasks: of every suite; empty takes all.
        demonstrations: episodes a task.
        backbone_steps: training steps of each backbone.
        episodes: closed-loop episodes a task with which every backbone is checked.
        seeds: of the grafts.
        control_seeds: of the shuffled, zero-image and pooling controls.
        samples: which moments are trained and scored on.
        recipe: budget of every graft.
        score: how held-out samples are scored.
        backbone: how backbones are trained, the number of steps aside.
        state_dropout: share of the samples on which backbones are trained without the arm's state.
        workers: processes.
        device: for the backbones.
        seed: draws demonstrations and backbones.
    """

    scale: Scale = "cpu"
    out: Path = Path("outputs/graft")
    results: Path = Path("results/grafting.md")
    backbones: list[str] | None = None
    encoders: list[str] | None = None
    suites: list[str] = field(default_factory=lambda: list(SUITES))
    tasks: list[int] | None = None
    demonstrations: int | None = None
    backbone_steps: list[int] | None = None
    episodes: int | None = None
    seeds: int | None = None
    control_seeds: int = 1
    samples: SampleSettings | None = None
    recipe: Recipe | None = None
    score: ScoreSettings | None = None
    backbone: TrainConfig = field(
        default_factory=lambda: TrainConfig(batch_size=16, learning_rate=5e-4, validate_every=500)
    )
    state_dropout: float = 0.5
    workers: int = 2
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in SCALES[self.scale].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.workers < 1 or (self.demonstrations or 0) < 1:
            raise FoveaError(
                f"--workers and --demonstrations: expected at least 1, got {self.workers} and {self.demonstrations}"
            )
        if not 0 <= (self.episodes or 0) <= EVALUATION_STATES_LEFT:
            raise FoveaError(
                f"--episodes: expected 0 to {EVALUATION_STATES_LEFT}, as many official states as no demonstration "
                f"starts from, got {self.episodes}"
            )
        if self.scale == "smoke" and self.results == type(self).results:
            self.results = self.out / self.results.name  # no study's page gives way to one that means nothing
        check_state_dropout(self.state_dropout)  # before hours of collecting
        if self.trains_backbones and len(self.backbone_steps or []) != len(self.backbones or []):
            raise FoveaError(
                f"--backbone_steps: expected one number for each of {self.backbones}, got {self.backbone_steps}"
            )
        self.plan()

    @property
    def trains_backbones(self) -> bool:
        """Whether the backbones are trained here; released ones are not."""
        return self.scale != "paper"

    def plan(self) -> Plan:
        """The cells."""
        return Plan(
            self.backbones or [],
            self.encoders or [],
            self.suites,
            1 if self.seeds is None else self.seeds,
            self.control_seeds,
            list(CONTROLS),
        )

    def collection(self, suite: str) -> CollectConfig:
        """The demonstrations of a suite."""
        return CollectConfig(
            out=self.data(suite),
            suite=suite,
            tasks=self.tasks or [],
            episodes=self.demonstrations or 1,
            init_states=[0, EVALUATION_STATES - 1],
            val_share=0.2 if (self.demonstrations or 1) >= 10 else 0.5,
            workers=self.workers,
            seed=self.seed,
        )

    def training(self, number: int) -> TrainConfig:
        """How the backbone with this number is trained."""
        from dataclasses import replace

        assert self.backbone_steps is not None
        return replace(self.backbone, steps=self.backbone_steps[number], seed=self.seed)

    @property
    def trained(self) -> Path:
        """Folder of the backbones that are trained here."""
        return self.out / "backbones"

    def data(self, suite: str) -> Path:
        """Folder of a suite's demonstrations."""
        return self.out / "data" / suite

    def jobs(self) -> list[NativeJob]:
        """The backbones to train."""
        data = tuple(self.data(suite) for suite in self.suites)
        return [
            NativeJob(name, data, self.trained / name, self.training(number), self.state_dropout)
            for number, name in enumerate(self.backbones or [])
        ]

    def decides(self) -> dict[str, Any]:
        """Settings of the study whose change makes it another one."""
        free = {"out", "results", "workers", "device", "encoders", "seeds", "control_seeds", "episodes"}
        free |= {
            "samples",
            "recipe",
            "score",
        }  # runs know their own; others of the same backbones may join them
        return {name: value for name, value in vars(self).items() if name not in free}


def run(config: GraftStudyConfig) -> dict[str, Any]:
    """Run or go on; writes the page and returns what was found.

    Raises:
        FoveaError: from any of the stages; what was done is kept.
    """
    # LeRobot and torch take seconds to import: not before something runs
    import transformers  # noqa: F401 - whoever lacks it should hear so before hours of collecting, not after

    from fovea.grafting.findings import find
    from fovea.grafting.pages import write_pages
    from fovea.grafting.study import StudySettings, run_study
    from fovea.pipelines.stages import Stages, current_commit
    from fovea.sim.collect import run as collect

    check_names(config)
    stages = Stages(config.out, config.decides())
    collected = {}
    for suite in config.suites:
        with stages.stage(f"collect {suite}", f"{config.demonstrations} demonstrations a task"):
            collected[suite] = collect(config.collection(suite))
            collected[suite].pop("out")  # where the data lie is this machine's business
    checks = {}
    if config.trains_backbones:
        jobs = config.jobs()
        with stages.stage(
            "train backbones", ", ".join(f"{job.label} {job.config.steps} steps" for job in jobs)
        ):
            if config.workers == 1:  # here, with all of torch's threads
                for job in jobs:
                    train_backbone(job)
            else:
                side_by_side(jobs, train_backbone, title="backbones", workers=config.workers)
        for name in config.backbones or []:
            if config.episodes:
                with stages.stage(f"check {name}", "closed loop, trained and untrained"):
                    checks[name] = check(config, name)
    settings = StudySettings(
        config.out,
        config.out / "data",
        config.trained,
        config.samples or SampleSettings(),
        config.recipe or Recipe(),
        config.score or ScoreSettings(),
        device=config.device,
        workers=config.workers,
    )
    plan = config.plan()
    budget = f"{len(plan.cells())} runs of {settings.recipe.steps} steps"
    with stages.stage(f"graft, {budget}", f"on {len(config.suites)} suites"):
        found = find(run_study(plan, settings))
    found |= {
        "scale": config.scale,
        "collected": collected,
        "closed_loop": checks,
        "stage_seconds": stages.seconds,
        "commit": current_commit(),
    }
    write_pages(found, config.out, markdown=config.results, head=head(config, found))
    return found


def check_names(config: GraftStudyConfig) -> None:
    """See that everything that is asked for exists, before hours of collecting and training."""
    from fovea.grafting.loading import checkpoint_folder
    from fovea.grafting.native import sizes_of
    from fovea.grafting.tokens import create_encoder_of
    from fovea.policies.ef_vla.configuration_ef_vla import checked_device
    from fovea.sim.suites import get_task, get_tasks

    checked_device(config.device)
    for suite in config.suites:
        get_tasks(suite)
        for task in config.tasks or []:
            get_task(suite, task)
    for name in config.backbones or []:
        sizes_of(name) if config.trains_backbones else checkpoint_folder(name, config.trained)
    for name in config.encoders or []:
        create_encoder_of(name)


def check(config: GraftStudyConfig, name: str) -> dict[str, Any]:
    """Closed loop: a trained backbone and an untrained one of its size in the same episodes.

    Returns:
        `trained` and `untrained` success (`SuccessRate.to_dict()`), per suite too, and `better`: Fisher's exact
        test says so, one-sided, p below 0.05.
    """
    from scipy.stats import fisher_exact

    from fovea.data.dataset import open_dataset
    from fovea.evaluation.actor import SelectActor
    from fovea.evaluation.closed_loop import evaluate
    from fovea.evaluation.episodes import official
    from fovea.evaluation.statistics import SIGNIFICANT, success_rate
    from fovea.grafting.loading import load_backbone
    from fovea.grafting.native import build_smolvla
    from fovea.sim import RenderSettings
    from fovea.sim.suites import get_tasks

    states = range(EVALUATION_STATES, EVALUATION_STATES + (config.episodes or 1))
    starts = [
        start
        for suite in config.suites
        for start in official(suite, config.tasks or [t.task_id for t in get_tasks(suite)], states)
    ]
    backbone = load_backbone(name, root=config.trained)
    untrained = build_smolvla(backbone.policy.config, seed=config.seed + 1)
    outcome: dict[str, Any] = {}
    for label, policy in (("trained", backbone.policy), ("untrained", untrained)):
        actor = SelectActor(policy, backbone.before, backbone.after, f"{label}-{backbone.identity}")
        records = evaluate(
            actor,
            starts,
            config.out / "closed_loop" / name / label,
            workers=config.workers,
            render=RenderSettings(image_size=actor.image_size),
            trained_on=open_dataset(config.data(config.suites[0])).record.get("render"),
            label=f"{name}, {label}",
        )
        suites = {s: success_rate(r for r in records if r["start"]["suite"] == s) for s in config.suites}
        outcome[label] = success_rate(records).to_dict() | {
            "suites": {suite: rate.to_dict() for suite, rate in suites.items()}
        }
    wins = [
        [o["successes"], o["episodes"] - o["successes"]] for o in (outcome["trained"], outcome["untrained"])
    ]
    p = float(fisher_exact(wins, alternative="greater").pvalue)
    return outcome | {"p": float(f"{p:.3g}"), "better": p < SIGNIFICANT}


def head(config: GraftStudyConfig, found: dict[str, Any]) -> list[str]:
    """What was run and how, before the verdict."""
    from fovea.pipelines.stages import typed_flags

    hours = sum(found["stage_seconds"].values()) / 3600
    usual = GraftStudyConfig(scale=config.scale)
    smoke = " A smoke run: its numbers mean nothing." if config.scale == "smoke" else ""
    lines = [
        f"`fovea reproduce graft --scale {config.scale}{typed_flags(config, usual, FREE)}` (seed {config.seed}, "
        f"commit {found['commit']}, {hours:.1f} h on this machine).{smoke}"
    ]
    episodes = "; ".join(
        f"{s}: {c['episodes']} episodes, {c['frames']:,} frames" for s, c in found["collected"].items()
    )
    lines.append(
        f"Demonstrations of the scripted expert, official initial states 0 to {EVALUATION_STATES - 1}. {episodes}."
    )
    for name, outcome in found["closed_loop"].items():
        rates = [
            f"{label} {outcome[label]['successes']}/{outcome[label]['episodes']}"
            for label in ("trained", "untrained")
        ]
        by_suite = ", ".join(
            f"{suite} {rate['successes']}/{rate['episodes']}"
            for suite, rate in outcome["trained"]["suites"].items()
        )
        said = "better than chance" if outcome["better"] else "NOT shown to be better than chance"
        lines.append(
            f"{name} in closed loop from states that no demonstration started from: {' against '.join(rates)} "
            f"({by_suite}), {said} (Fisher's exact test, one-sided, p = {outcome['p']:.2g})."
        )
    return lines
