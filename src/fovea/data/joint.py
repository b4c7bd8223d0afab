"""Several data sets as one source of windows: a policy that learns LIBERO's 30 tasks learns from several folders.

Shapes: B windows; the batch has the columns of `fovea.data.windows.WindowSource.batch`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fovea.data.windows import Window, WindowSource, draw_views
from fovea.errors import FoveaError


@dataclass(frozen=True)
class JointWindow(Window):
    """A window that knows which of the sources it belongs to."""

    source: int = 0


class JointSource:
    """Draws windows from several sources, in proportion to how many they hold.

    Args:
        sources: of the same cameras, context, horizon and vector sizes.

    Raises:
        FoveaError: no source, or sources whose batches do not fit together.
    """

    def __init__(self, sources: Sequence[WindowSource]) -> None:
        if not sources:
            raise FoveaError("expected at least one data set to train on, got none")
        self.sources = list(sources)
        first = self.sources[0]
        for other in self.sources[1:]:
            for what in (_cameras, _sizes, _encoding):
                if what(other) != what(first):
                    raise FoveaError(
                        f"data sets that are trained on together must agree in {what.__name__[1:]}: "
                        f"{first.dataset.root} has {what(first)}, {other.dataset.root} has {what(other)}"
                    )
        self.context, self.horizon, self.span = first.context, first.horizon, first.span
        self._ends = np.cumsum([len(source) for source in self.sources])

    def __len__(self) -> int:
        """Number of different windows."""
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> JointWindow:
        which = int(np.searchsorted(self._ends, number, side="right"))
        window = self.sources[which][number - (int(self._ends[which - 1]) if which else 0)]
        return JointWindow(**vars(window), source=which)

    def sample(self, seed: int, step: int, count: int) -> list[Window]:
        """`count` windows drawn uniformly over all sources: a pure function of seed and step."""
        rng = np.random.default_rng([seed, step])
        windows = [self[int(number)] for number in rng.integers(len(self), size=count)]
        return draw_views(windows, [self.sources[window.source].views for window in windows], rng)

    def spread(self, count: int) -> list[Window]:
        """At most `count` windows spread evenly over all, always the same: for validation."""
        count = min(count, len(self))
        return [self[int(number)] for number in np.linspace(0, len(self) - 1, count)]

    def batch(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Collate windows of any of the sources; row b of every column belongs to `windows[b]`."""
        groups = {
            which: [b for b, w in enumerate(windows) if _origin(w) == which] for which in _present(windows)
        }
        order = torch.tensor([b for rows in groups.values() for b in rows]).argsort()
        parts = [self.sources[which].batch([windows[b] for b in rows]) for which, rows in groups.items()]
        joined: dict[str, Any] = {}
        for key, value in parts[0].items():
            if isinstance(value, torch.Tensor):
                joined[key] = torch.cat([part[key] for part in parts])[order] if len(parts) > 1 else value
            else:
                items = [item for part in parts for item in part[key]]
                joined[key] = [items[place] for place in order.tolist()]
        return joined

    def describe(self) -> dict[str, Any]:
        """JSON-able: what the windows are drawn from."""
        sources = [source.describe() for source in self.sources]
        return {"labels": [source.pop("labels") for source in sources], "sources": sources}


def _present(windows: Sequence[Window]) -> list[int]:
    return sorted({_origin(window) for window in windows})


def _origin(window: Window) -> int:
    return window.source if isinstance(window, JointWindow) else 0


def _cameras(source: WindowSource) -> list[str]:
    return list(source.dataset.cameras)


def _sizes(source: WindowSource) -> dict[str, int]:
    dataset = source.dataset
    return {
        "context": source.context,
        "horizon": source.horizon,
        "stride": source.stride,
        "state": dataset.state.shape[1],
        "action": dataset.action.shape[1],
        "frames a second": dataset.fps,
    }


def _encoding(source: WindowSource) -> str | None:
    return source.features.about["identity"] if source.features else None
