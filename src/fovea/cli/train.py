"""`fovea train`: a policy from a data set, through the cached features of its frozen encoder."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from fovea.cli.policy_flags import PolicyFlags
from fovea.data.augment import Augmentation
from fovea.data.pictures import GIGABYTE
from fovea.errors import FoveaError
from fovea.training.trainer import TrainConfig

MOST_MEMORY = 1_000_000  # GB


@dataclass(kw_only=True)
class Config(TrainConfig, PolicyFlags):
    """What to train on what, and where to.

    Attributes:
        dataset: folder of a LeRobot data set, as `fovea collect` writes it.
        out: folder of the run; a run that was stopped there goes on.
        workers: threads that encode pictures which are not cached yet.
        variants: augmented views of every frame beside the recorded one; each window shows one of them. Cached as
            `fovea cache --variants` does; a policy that trains its vision draws a new view for every window.
        augment: what is drawn (Table 6 of the paper).
        picture_memory: GB to keep decoded pictures in, for a policy that trains its vision.
    """

    dataset: Path
    out: Path = Path("outputs/train")
    workers: int = 2
    variants: int = 0
    augment: Augmentation = field(default_factory=Augmentation)
    picture_memory: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 1:
            raise FoveaError(f"workers: expected at least 1, got {self.workers}")
        if self.variants < 0 or not 0 <= self.picture_memory <= MOST_MEMORY:
            raise FoveaError(
                f"variants and picture_memory: expected 0 or more (GB, at most {MOST_MEMORY:,}), got {self.variants} "
                f"and {self.picture_memory}"
            )


INSTEAD = {  # LeRobot's presets of a policy's optimiser -> what this verb goes by
    "optimizer_lr": "--learning_rate",
    "optimizer_weight_decay": "--weight_decay",
    "optimizer_grad_clip": "--clip_norm",
    "warmup_steps": "--warmup_steps",
    "decay_steps": "--steps",
}
NOT_HERE = ("pretrained_path", "pretrained_revision", "use_amp", "use_peft", "push_to_hub", "repo_id")


def run(config: Config) -> None:
    """Cache, train, say where the checkpoint is."""
    from fovea.pipelines.learn import train_policy
    from fovea.training.ranks import is_main_process

    for name in sorted(INSTEAD.keys() & config.NAMED):
        raise FoveaError(f"--policy.{name} is for lerobot-train; `fovea train` goes by {INSTEAD[name]}")
    for name in NOT_HERE:
        if name in config.NAMED and getattr(config.policy, name):
            raise FoveaError(
                f"--policy.{name} is for lerobot-train; `fovea train` starts from new weights, in full precision, and "
                "pushes nothing"
            )
    training = TrainConfig(**{f.name: getattr(config, f.name) for f in fields(TrainConfig)})
    result = train_policy(
        config.dataset,
        config.policy_config(),
        training,
        config.out,
        workers=config.workers,
        variants=config.variants,
        augmentation=config.augment,
        memory=int(config.picture_memory * GIGABYTE),
    )
    if not is_main_process():
        return
    validation = "" if result.validation_loss is None else f", validation {result.validation_loss:.4f}"
    print(f"{result.steps} steps in {result.seconds:.0f} s: loss {result.loss:.4f}{validation}")
    print(f"Policy: {result.policy_path}. Curve: {result.curve}")
