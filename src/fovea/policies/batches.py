"""Batches that policies act on and learn from: what they must hold, some of their frames, the memories behind them.

Shape letters: B batch, T time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fovea.errors import FoveaError


def rows(batch: dict[str, Any], chosen: Sequence[int], count: int) -> dict[str, Any]:
    """Some of the `count` frames of a batch: of whatever has one entry a frame; the rest stays as it is."""

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[list(chosen)] if value.ndim and len(value) == count else value
        return (
            [value[i] for i in chosen] if isinstance(value, list | tuple) and len(value) == count else value
        )

    return {key: pick(value) for key, value in batch.items()}


def forget(
    memories: list[Any], environments: Sequence[int] | Sequence[bool], fresh: Callable[[], Any]
) -> None:
    """Give some environments of a batch a fresh memory, in place.

    Args:
        memories: one an environment; none before the first action, when there is nothing to forget.
        environments: their numbers, or one truth value for each ("done").

    Raises:
        FoveaError: there is no such environment, or another number of truth values.
    """
    if not memories:
        return
    chosen = [value.item() if hasattr(value, "item") else value for value in environments]
    if chosen and all(isinstance(value, bool) for value in chosen):
        if len(chosen) != len(memories):
            raise FoveaError(f"expected {len(memories)} truth values, one an environment, got {len(chosen)}")
        chosen = [index for index, value in enumerate(chosen) if value]
    for index in chosen:
        if not 0 <= index < len(memories):
            raise FoveaError(
                f"expected environments 0 to {len(memories) - 1} of the batch, got {index}; reset() forgets them all"
            )
    for index in chosen:
        memories[index] = fresh()


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse a batch whose entries have different numbers of samples.

    Args:
        counts: entry of the batch -> B.

    Raises:
        FoveaError: they differ.
    """
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise FoveaError(f"expected as many of each as the batch has samples, got {found}")


def check_axes(key: str, value: Any, axes: int, shape: str) -> None:
    """Refuse what is no tensor, or one of other axes; `shape` says which, such as "(B, T, 8)".

    Raises:
        FoveaError: so it is.
    """
    if not isinstance(value, Tensor):
        raise FoveaError(f"expected {key} as a tensor {shape}, got {type(value).__name__}")
    if value.ndim != axes:
        raise FoveaError(f"expected {key} of shape {shape}, got {tuple(value.shape)}")


def check_finite_rows(key: str, values: Tensor) -> None:
    """Refuse NaN and infinity in what a policy is about to act on and remember; values (B, ...).

    Raises:
        FoveaError: some; it names the rows.
    """
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        wrong = ", ".join(map(str, (~finite).nonzero().flatten().tolist()))
        raise FoveaError(
            f"expected finite numbers in {key}, got NaN or infinity in row {wrong} of the batch; is a sensor silent, "
            "or a scale zero?"
        )


def padding(batch: Mapping[str, Any], key: str, shape: Sequence[int], device: torch.device) -> Tensor | None:
    """Where samples of a batch are padded: (B, T), True there, or None where the batch does not say.

    Raises:
        FoveaError: it is no tensor of this shape.
    """
    if key not in batch:
        return None
    value = batch[key]
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise FoveaError(f"expected {key} of shape {tuple(shape)}, a truth value a step, got {got}")
    return value.to(device).bool()
