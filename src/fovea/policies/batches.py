"""Batches that policies act on: some of their frames."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def rows(batch: dict[str, Any], chosen: Sequence[int], count: int) -> dict[str, Any]:
    """Some of the `count` frames of a batch: of whatever has one entry a frame; the rest stays as it is."""

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[list(chosen)] if value.ndim and len(value) == count else value
        return (
            [value[i] for i in chosen] if isinstance(value, list | tuple) and len(value) == count else value
        )

    return {key: pick(value) for key, value in batch.items()}
