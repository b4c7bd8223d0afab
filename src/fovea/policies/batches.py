"""Batches that policies act on: some of their frames, and the memories behind them."""

from collections.abc import Callable, Sequence
from typing import Any

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
