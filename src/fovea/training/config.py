"""What a training run is told, and what comes of it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fovea.errors import FoveaError
from fovea.policies.checked import check_finite

MOST_THREADS = 1024  # with many more torch crashes


@dataclass
class TrainConfig:
    """How a policy is trained.

    Args:
        steps: updates in all.
        batch_size: windows an update, over all processes.
        learning_rate: peak of the schedule (linear warm-up, cosine to `final_learning_rate` of the peak).
        warmup_steps: updates of the warm-up.
        final_learning_rate: share of the peak at the end.
        weight_decay: on matrices only, unless the policy groups its parameters itself.
        clip_norm: largest gradient norm.
        ema_decay: of the averaged weights that checkpoints act with; 0 acts with the last weights.
        seed: of windows and dropout.
        save_every: updates between checkpoints.
        log_every: updates between reports.
        validate_every: updates between validations.
        validation_windows: how many windows of the validation episodes are looked at.
        threads: torch threads; None leaves them as they are. A run may go on with another number: its last bits then
            differ from those of a run that did not.
        prefetch: batches prepared ahead.
        loaders: threads that prepare them; more than one where pictures are decoded.
    """

    steps: int = 5000
    batch_size: int = 16
    learning_rate: float = 5e-4
    warmup_steps: int = 150
    final_learning_rate: float = 0.01
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    save_every: int = 500
    log_every: int = 20
    validate_every: int = 250
    validation_windows: int = 256
    threads: int | None = None
    prefetch: int = 3
    loaders: int = 1

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "save_every",
            "log_every",
            "validate_every",
            "validation_windows",
            "prefetch",
            "loaders",
            "warmup_steps",
        ):
            if getattr(self, name) < 1:
                raise FoveaError(f"expected {name} of at least 1, got {getattr(self, name)}")
        check_finite(self)
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise FoveaError(f"expected {name} above 0, got {getattr(self, name)}")
        for name in ("seed", "weight_decay", "final_learning_rate"):
            if not getattr(self, name) >= 0:
                raise FoveaError(f"expected {name} of at least 0, got {getattr(self, name)}")
        if self.seed >= 2**63:  # what torch takes
            raise FoveaError(f"expected seed below 2^63, got {self.seed}")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise FoveaError(f"expected threads of 1 to {MOST_THREADS}, got {self.threads}")
        if not 0 <= self.ema_decay < 1:
            raise FoveaError(f"expected ema_decay in [0, 1), got {self.ema_decay}")

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the outcome; a run goes on only with the same ones."""
        free = (
            "save_every",
            "threads",
            "prefetch",
            "loaders",
            "validation_windows",
            "validate_every",
            "log_every",
        )
        return {name: value for name, value in asdict(self).items() if name not in free}


@dataclass(frozen=True)
class TrainResult:
    """What came of a run.

    Args:
        checkpoint: folder of the last checkpoint; `checkpoint / "pretrained_model"` is the policy.
        steps: updates done in all.
        resumed_from: updates that an earlier run had done.
        seconds: wall time in all, earlier runs included.
        loss: mean training loss of the last report.
        validation_loss: of the last validation, None without validation episodes.
        metrics: the JSONL file.
        curve: the PNG.
    """

    checkpoint: Path
    steps: int
    resumed_from: int
    seconds: float
    loss: float
    validation_loss: float | None
    metrics: Path
    curve: Path

    @property
    def policy_path(self) -> Path:
        """Folder for `from_pretrained`."""
        return self.checkpoint / "pretrained_model"
