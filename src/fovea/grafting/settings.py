"""What decides the outcome of a grafting run: samples, budget, scoring. Nothing heavy is imported here."""

from dataclasses import asdict, dataclass
from typing import Any

from fovea.errors import FoveaError

EULER_STEPS = 10


def check_state_dropout(share: float) -> None:
    """Refuse what is no share of the training samples.

    Raises:
        FoveaError: not in [0, 1).
    """
    if not 0 <= share < 1:
        raise FoveaError(f"--state_dropout: expected a share in [0, 1), got {share}")


@dataclass(frozen=True)
class SampleSettings:
    """How samples are chosen.

    Attributes:
        train: moments of training episodes that are drawn from.
        held_out: moments of held-out episodes that are scored.
        share: of each task's episodes is held out where the data set does not say (every episode of a data set made
            here is marked).
        seed: draws the moments.
    """

    train: int = 4000
    held_out: int = 256
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("train", 1), ("held_out", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise FoveaError(f"samples.{name}: expected at least {least}, got {getattr(self, name)}")
        if not 0 < self.share < 1:
            raise FoveaError(f"samples.share: expected a share between 0 and 1, got {self.share}")


@dataclass(frozen=True)
class Recipe:
    """The budget of every run, the same for all candidates.

    Attributes:
        steps: updates.
        batch_size: samples an update; at least 2, for shuffling.
        learning_rate: peak for the projector (linear warm-up, cosine to 1 %).
        lora_learning_rate: the same for LoRA.
        warmup_steps: of the warm-up.
        clip_norm: largest gradient norm.
        lora_rank: of the LoRA control.
        save_every: updates between saved states, from which a killed run goes on.
    """

    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 2e-3
    lora_learning_rate: float = 5e-4
    warmup_steps: int = 20
    clip_norm: float = 1.0
    lora_rank: int = 8
    save_every: int = 200

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("batch_size", 2),
            ("warmup_steps", 1),
            ("lora_rank", 1),
            ("save_every", 1),
        ):
            if getattr(self, name) < least:
                raise FoveaError(f"recipe.{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "lora_learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise FoveaError(f"recipe.{name}: expected more than 0, got {getattr(self, name)}")

    def decides(self) -> dict[str, Any]:
        """What the outcome depends on."""
        return {name: value for name, value in asdict(self).items() if name != "save_every"}


@dataclass(frozen=True)
class ScoreSettings:
    """How samples are scored.

    Attributes:
        euler_steps: of the sampler.
        flow_draws: K, fixed pairs of time and noise per sample for the flow loss.
        batch_size: samples at a time; changes nothing but the speed.
        seed: draws noise and times.
    """

    euler_steps: int = EULER_STEPS
    flow_draws: int = 2
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("euler_steps", 1), ("flow_draws", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise FoveaError(f"score.{name}: expected at least {least}, got {getattr(self, name)}")

    def decides(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {"euler_steps": self.euler_steps, "flow_draws": self.flow_draws, "seed": self.seed}
