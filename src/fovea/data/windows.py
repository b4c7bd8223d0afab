"""Windows: short contiguous slices of episodes, as the batches a policy trains on.

A window of T frames that starts at step t0 holds the observations t0..t0+T-1 and the actions t0..t0+T+H-2, so that its
position i owns the chunk of actions i..i+H-1. With a stride s, its frames are s steps apart, and position i owns the
actions i*s..i*s+H-1. Windows may hang over the end of an episode (and over its start, as
LeRobot's own loader does, with `lead`): there the nearest real step is repeated and marked as padding.

Shapes: B windows, T steps of context, H horizon, C cameras, N patches, D width, S state, A action.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from fovea.data import keys
from fovea.data.augment import ENDLESS, Augmentation
from fovea.data.dataset import EpisodeInfo, RecordedDataset
from fovea.data.feature_cache import FeatureCache
from fovea.data.feature_views import FeatureViews
from fovea.data.pictures import GIGABYTE, Pictures
from fovea.errors import FoveaError


@dataclass(frozen=True)
class Window:
    """One window: an episode and the step it starts at (negative or near the end: it hangs over).

    `view` says which augmented pictures it shows (`fovea.data.augment`), 0 the recorded ones.
    """

    episode: EpisodeInfo
    start: int
    view: int = 0

    def describe(self, span: int) -> str:
        """For messages: 'episode 3, frames 10..21'."""
        last = min(self.start + span, len(self.episode)) - 1
        return f"episode {self.episode.index}, frames {max(self.start, 0)}..{last} ({self.episode.task!r})"


class WindowSource:
    """Draws windows of chosen episodes and turns them into batches.

    Args:
        dataset: where states, actions and sentences come from.
        features: cached patches of the same data set, perhaps with augmented views, of which every drawn window gets
            one (the recorded pictures among them); without features batches carry decoded pictures.
        augmentation: of decoded pictures: every drawn window gets a view of its own.
        memory: bytes to keep decoded pictures in.
        episodes: which episodes; all by default.
        context: T.
        horizon: H.
        stride: s, steps from one frame of a window to the next.
        lead: how many steps a window may start before its episode.
        tail: how many steps a window may end after its episode; (T-1)*s by default, so every step of an episode is
            equally often seen (but for the first (T-1)*s-lead).

    Raises:
        FoveaError: if there are no episodes, the features belong to another data set, or the data set lacks a camera
            that is to be augmented.
    """

    def __init__(
        self,
        dataset: RecordedDataset,
        features: FeatureCache | FeatureViews | None = None,
        *,
        augmentation: Augmentation | None = None,
        memory: int = 2 * GIGABYTE,
        episodes: Sequence[EpisodeInfo] | None = None,
        context: int = 12,
        horizon: int = 12,
        stride: int = 1,
        lead: int = 0,
        tail: int | None = None,
    ) -> None:
        self.dataset, self.features, self.augmentation = dataset, features, augmentation
        self.episodes = list(dataset.episodes if episodes is None else episodes)
        self.context, self.horizon, self.stride, self.lead = context, horizon, stride, lead
        self.span = (context - 1) * stride + 1
        self.tail = self.span - 1 if tail is None else tail
        if not self.episodes:
            raise FoveaError(
                f"expected at least one episode of {dataset.root} to train on, got none; check the split"
            )
        if not (0 <= lead < self.span and 0 <= self.tail < self.span and horizon > 0 and stride > 0):
            raise FoveaError(
                f"expected lead and tail in 0..{self.span - 1}, a horizon and a stride above 0, got {lead}, "
                f"{self.tail}, {horizon} and {stride}"
            )
        if features is not None and features.about["dataset"] != dataset.fingerprint:
            raise FoveaError(
                f"{features.folder} holds the features of another data set than {dataset.root}; build them"
            )
        if augmentation is not None:
            if features is not None:
                raise FoveaError(
                    "expected cached features or augmentation of pictures, got both; cache augmented views instead"
                )
            augmentation.check_cameras(tuple(dataset.cameras))
        counts = [max(1, len(episode) + lead + self.tail - self.span + 1) for episode in self.episodes]
        self._ends = np.cumsum(counts)
        self._pictures = Pictures(dataset, memory)

    def __len__(self) -> int:
        """Number of different windows."""
        return int(self._ends[-1])

    @property
    def views(self) -> int:
        """How many augmented views a window can be drawn in, the recorded one not counted."""
        if self.augmentation is not None:
            return ENDLESS
        return self.features.count if isinstance(self.features, FeatureViews) else 0

    def __getitem__(self, number: int) -> Window:
        which = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[which - 1]) if which else 0
        return Window(self.episodes[which], number - before - self.lead)

    def sample(self, seed: int, step: int, count: int) -> list[Window]:
        """`count` windows drawn uniformly with replacement: a pure function of seed and step, so resuming is exact."""
        rng = np.random.default_rng([seed, step])
        windows = [self[int(number)] for number in rng.integers(len(self), size=count)]
        return draw_views(windows, [self.views] * count, rng)

    def spread(self, count: int) -> list[Window]:
        """At most `count` windows spread evenly over all, always the same, as recorded: for validation."""
        count = min(count, len(self))
        return [self[int(number)] for number in np.linspace(0, len(self) - 1, count)]

    def batch(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Collate windows.

        Returns:
            `observation.state` (B, T, S) and `observation.state_is_pad` (B, T) bool; `action` (B, (T-1)*s+H, A) and
            `action_is_pad` (B, (T-1)*s+H) bool, True past either end and before `label_from`; per camera
            `observation.features.*` (B, T, N, D) float16 or `observation.images.*` (B, T, 3, h, w) uint8;
            `task` list of B sentences.
        """
        steps = np.arange(self.context) * self.stride
        actions = np.arange(self.span + self.horizon - 1)
        starts = np.array([window.start for window in windows])
        lengths = np.array([len(window.episode) for window in windows])[:, None]
        offsets = np.array([window.episode.start for window in windows])[:, None]
        label_from = np.array([window.episode.label_from for window in windows])[:, None]
        seen, acted = starts[:, None] + steps, starts[:, None] + actions
        seen_rows = offsets + np.clip(seen, 0, lengths - 1)
        acted_rows = offsets + np.clip(acted, 0, lengths - 1)
        batch: dict[str, Any] = {
            keys.STATE: torch.from_numpy(self.dataset.state[seen_rows]),
            f"{keys.STATE}_is_pad": torch.from_numpy((seen < 0) | (seen >= lengths)),
            keys.ACTION: torch.from_numpy(self.dataset.action[acted_rows]),
            f"{keys.ACTION}_is_pad": torch.from_numpy((acted < label_from) | (acted >= lengths)),
            keys.TASK: [window.episode.task for window in windows],
        }
        if self.features is not None:
            views = np.array([window.view for window in windows])
            for camera, key in enumerate(self.dataset.cameras):
                batch[keys.features_key(key)] = self._patches(seen_rows, camera, views)
        else:
            for key in self.dataset.cameras:
                pictures = zip(windows, seen_rows - offsets, strict=True)
                batch[key] = torch.stack([self._shown(window, key, steps) for window, steps in pictures])
        return batch

    def describe(self) -> dict[str, Any]:
        """JSON-able: what the windows are drawn from, so that a run can tell whether it goes on with the same data."""
        return {
            "dataset": self.dataset.fingerprint,
            "features": self.features.about["identity"] if self.features else None,
            "variant": self._describe_views(),
            "episodes": [episode.index for episode in self.episodes],
            "labels": self._labels(),
            "window": [self.context, self.horizon, self.lead, self.tail]
            + ([self.stride] if self.stride > 1 else []),
        }

    def _labels(self) -> str:
        """SHA-256 over what meta/ adds to the rows of the episodes: instructions, and from where on actions count."""
        labels = [(episode.task, episode.label_from) for episode in self.episodes]
        return hashlib.sha256(json.dumps(labels).encode()).hexdigest()

    def _describe_views(self) -> Any:
        if isinstance(self.features, FeatureViews) and self.features.count:
            return self.features.describe()
        if self.augmentation is not None:
            return asdict(self.augmentation)
        return self.features.about["variant"] if self.features else None

    def _patches(self, rows: np.ndarray, camera: int, views: np.ndarray) -> torch.Tensor:
        """float16 (B, T, N, D)."""
        if isinstance(self.features, FeatureViews):
            return self.features.gather(rows, camera, views)
        assert self.features is not None
        return self.features.gather(rows, camera)

    def _shown(self, window: Window, camera: str, steps: np.ndarray) -> torch.Tensor:
        """A window's pictures as it shows them: uint8 (T, 3, h, w)."""
        frames = np.moveaxis(self._pictures.frames(window.episode, camera, steps), -1, 1)
        pictures = torch.from_numpy(np.ascontiguousarray(frames))
        if self.augmentation is None:
            return pictures
        return self.augmentation.apply(
            pictures, view=window.view, episode=window.episode.index, camera=camera
        )


def draw_views[W: Window](windows: Sequence[W], counts: Sequence[int], rng: np.random.Generator) -> list[W]:
    """Give every window one of its views, `counts` augmented ones and the recorded one, all equally likely."""
    views = rng.integers(0, np.array(counts) + 1)
    return [replace(w, view=int(view)) if view else w for w, view in zip(windows, views, strict=True)]
