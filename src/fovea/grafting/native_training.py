"""Train a small SmolVLA from scratch on demonstrations: the "released" backbone of a study without downloads.

Shapes: B windows, h, w pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fovea.data import keys
from fovea.data.dataset import RecordedDataset
from fovea.data.joint import JointSource
from fovea.data.windows import WindowSource
from fovea.errors import FoveaError
from fovea.grafting.native import VLM, build_smolvla, sizes_of, smolvla_config, statistics, write_vlm
from fovea.grafting.settings import check_state_dropout
from fovea.training.config import TrainConfig, TrainResult
from fovea.training.trainer import train

LEAST_DEVIATION = 0.1  # of a number's range


class FloatPictures:
    """A LeRobot preprocessor behind a step that makes pictures floats in [0, 1], as LeRobot's loader hands them out."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """uint8 (B, 1, 3, h, w) -> float (B, 3, h, w); the rest of a one-step window loses its time axis too."""
        changed = dict(batch)
        for key, value in batch.items():
            if isinstance(value, torch.Tensor) and value.dtype == torch.uint8:
                changed[key] = value[:, -1].float() / 255
        changed[keys.STATE] = batch[keys.STATE][:, -1]
        changed.pop(f"{keys.STATE}_is_pad", None)
        return self.inner(changed)

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """The inner one's: whoever loads the policy hands it LeRobot's own batches."""
        self.inner.save_pretrained(*arguments, **options)


class StateDropout:
    """A forward pre-hook: some samples of a training batch lose their state, so pictures must tell where the arm is.

    A policy that is trained from scratch finds the state first: it predicts most of a demonstration without a look.
    Isaac GR00T drops states too (`state_dropout_prob`).

    Args:
        share: of the samples. They get zeros, which is the mean of a normalised state.
    """

    def __init__(self, share: float) -> None:
        check_state_dropout(share)
        self.share = share

    def __call__(self, policy: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """A batch with a state (B, S), and whatever follows it; unchanged when the policy is being evaluated."""
        if not policy.training or not self.share:
            return None
        batch, *rest = arguments
        state = batch[keys.STATE]
        kept = torch.rand(len(state), 1, device=state.device) >= self.share
        return {**batch, keys.STATE: state * kept}, *rest


def train_native(
    size: str,
    datasets: Sequence[RecordedDataset],
    out: Path,
    config: TrainConfig,
    *,
    state_dropout: float = 0,
    progress: bool = True,
) -> TrainResult:
    """Train a SmolVLA of a named size on the training episodes of some data sets; goes on where it was stopped.

    Args:
        size: name of `native.SIZES`.
        out: gets vlm/ and the trainer's checkpoints.
        state_dropout: share of the training samples that are shown without their state.

    Raises:
        FoveaError: an unknown size, no training episode, or whatever the trainer refuses.
    """
    from lerobot.policies.factory import make_pre_post_processors

    sizes, sentences = sizes_of(size), {e.task for dataset in datasets for e in dataset.episodes}
    vlm = write_vlm(out.resolve() / VLM, sizes, sorted(sentences))  # however the folder was named, one run
    side = datasets[0].frames(0, datasets[0].cameras[0], 0, 1).shape[1]
    policy_config = smolvla_config(
        sizes,
        vlm,
        cameras=datasets[0].cameras,
        picture=(side, side),
        state_size=datasets[0].state.shape[1],
        action_size=datasets[0].action.shape[1],
    )
    policy = build_smolvla(policy_config, config.seed)
    before, after = make_pre_post_processors(
        policy_config, dataset_stats=statistics(datasets, floor=LEAST_DEVIATION)
    )
    policy.register_forward_pre_hook(StateDropout(state_dropout))
    training = _windows(datasets, "train", sizes.chunk)
    if training is None:
        raise FoveaError("expected at least one training episode, got none; check the split of the data sets")
    return train(
        config,
        policy,
        FloatPictures(before),
        after,
        training,
        out,
        validation=_windows(datasets, "val", sizes.chunk),
        progress=progress,
    )


def _windows(datasets: Sequence[RecordedDataset], split: str, chunk: int) -> JointSource | None:
    sources = [
        WindowSource(dataset, episodes=dataset.select(split), context=1, horizon=chunk)
        for dataset in datasets
        if dataset.select(split)
    ]
    return JointSource(sources) if sources else None
