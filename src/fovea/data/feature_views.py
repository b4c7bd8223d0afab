"""Cached features of K augmented views beside the clean ones: augmentation without running the encoder again.

Every view is a cache of its own (`fovea.data.feature_cache`), keyed by its draw, so that a run with more views computes
only the new ones. Views hold the augmented cameras only; the others are read from the clean cache.

Shapes: B windows, F frames of the data set, N patches, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from fovea.data.augment import Augmentation
from fovea.data.dataset import RecordedDataset
from fovea.data.feature_build import FeatureBuilder, fill
from fovea.data.feature_cache import FeatureCache
from fovea.data.files import cache_root, human_size, require_space
from fovea.encoders.base import VisionEncoder
from fovea.errors import FoveaError

MOST_VIEWS = 10_000  # each is a cache of its own


class FeatureViews:
    """The clean cache (view 0) and caches of the views 1..K.

    Attributes:
        about: of the clean cache.
        folder: of the clean cache.
        count: K.
    """

    def __init__(self, clean: FeatureCache, augmented: Sequence[FeatureCache]) -> None:
        self.clean, self.augmented = clean, list(augmented)
        self.about, self.folder, self.count = clean.about, clean.folder, len(self.augmented)
        for cache in self.augmented:
            same = [cache.about[name] == clean.about[name] for name in ("identity", "dataset")]
            if not all(same) or cache.shape[2:] != clean.shape[2:]:
                raise FoveaError(f"{cache.folder} holds a view of other features than {clean.folder}")

    def describe(self) -> dict[str, Any]:
        """JSON-able: what was drawn."""
        return {
            "views": [cache.about["variant"] for cache in self.augmented],
            "augmented": self.augmented[0].about["cameras"] if self.augmented else [],
        }

    def gather(self, rows: np.ndarray, camera: int, views: np.ndarray) -> Tensor:
        """Patches of one camera: frame numbers (B, ...) and the view of each of B -> float16 (B, ..., N, D)."""
        key = self.clean.about["cameras"][camera]
        caches = [(self.clean, camera)]
        for cache in self.augmented:
            named = cache.about["cameras"]
            caches.append((cache, named.index(key)) if key in named else caches[0])
        if all(place == caches[0] for place in caches) or not views.any():
            return self.clean.gather(rows, camera)
        patches = np.empty((*rows.shape, *self.clean.shape[2:]), np.float16)
        for window, view in enumerate(views):
            cache, index = caches[view]
            cache.gather(rows[window], index, patches[window])
        return torch.from_numpy(patches)

    def verify(self) -> list[int]:
        """Check every episode of every view now; return the damaged ones."""
        return sorted({episode for cache in (self.clean, *self.augmented) for episode in cache.verify()})


def build_views(
    encoder: VisionEncoder,
    dataset: RecordedDataset,
    augmentation: Augmentation,
    count: int,
    *,
    root: str | Path | None = None,
    workers: int = 2,
    batch_size: int = 32,
    progress: bool = True,
) -> FeatureViews:
    """Open the clean features and `count` augmented views, computing what is missing or damaged.

    Args: see `fovea.data.feature_build.build_features`.

    Raises:
        FoveaError: if all of it together would fill the disk (nothing is written then), the data set lacks a camera
            that is to be augmented, or for any reason of `build_features`.
    """
    plan = plan_views(encoder, dataset, augmentation, count, root=root, batch_size=batch_size)
    missing = sum(builder.bytes_missing() for builder in plan if not builder.is_sealed())
    if missing:
        total = human_size(sum(builder.size for builder in plan))
        if progress and count:
            Console(stderr=True, soft_wrap=True).print(
                f"clean features and {count} augmented views: {total} in all, {human_size(missing)} to write"
            )
        require_space(Path(root or cache_root()), missing, "the feature cache")
    clean, *views = (fill(builder, workers=workers, progress=progress) for builder in plan)
    return FeatureViews(clean, views)


def plan_views(
    encoder: VisionEncoder,
    dataset: RecordedDataset,
    augmentation: Augmentation,
    count: int,
    *,
    root: str | Path | None = None,
    batch_size: int = 32,
) -> list[FeatureBuilder]:
    """The caches that `build_views` would fill, clean one first; nothing is written.

    Raises:
        FoveaError: the data set lacks a camera that is to be augmented, or `count` is out of range.
    """
    if not 0 <= count <= MOST_VIEWS:
        raise FoveaError(f"expected 0 to {MOST_VIEWS:,} augmented views, got {count}")
    plan = [FeatureBuilder(encoder, dataset, root=root, batch_size=batch_size)]
    if not count:
        return plan
    augmentation.check_cameras(dataset.cameras)
    cameras = [camera for camera in dataset.cameras if camera in augmentation.cameras]
    for view in range(1, count + 1):

        def transform(pictures: Tensor, episode: int, camera: str, view: int = view) -> Tensor:
            return augmentation.apply(pictures, view=view, episode=episode, camera=camera)

        plan.append(
            FeatureBuilder(
                encoder,
                dataset,
                variant=augmentation.name(view),
                transform=transform,
                cameras=cameras,
                root=root,
                batch_size=batch_size,
            )
        )
    return plan
