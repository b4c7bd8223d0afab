"""A corpus of rendered scenes with segmentation: what `fovea pretrain` learns from.

A folder with corpus.json ({"categories": [{"name": ...}], "cameras": [...], ...}) and shards NNNNN.npz with
images (n, S, S, 3) uint8 upright, labels (n, S, S) uint8 (index into the categories, 255 elsewhere), camera (n,)
and scene (n,). The shards are read into memory once; a scene belongs to training or to the held-out part as a
whole.

Shape letters: B pictures, S side in pixels, N patches, K categories.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fovea.data.files import read_json
from fovea.errors import FoveaError

BACKGROUND = 255
_HELD_OUT_EVERY = 12  # scenes: about 8 %


class SceneCorpus:
    """Pictures, labels and the split of a corpus folder, in memory.

    Args:
        folder: the corpus.
        limit: read at most this many pictures (whole shards).

    Attributes:
        categories: names of the object types, in label order.
        cameras: names of the cameras.
        camera, scene: (n,) int arrays over all pictures.
        record: corpus.json as it is.

    Raises:
        FoveaError: the folder is no corpus, or a shard is damaged or disagrees with corpus.json.
    """

    def __init__(self, folder: str | Path, limit: int | None = None) -> None:
        self.folder = Path(folder)
        self.record: dict[str, Any] = read_json(self.folder / "corpus.json", "scene corpus")
        self.categories = [str(category["name"]) for category in self.record["categories"]]
        self.cameras = [str(camera) for camera in self.record["cameras"]]
        self._images: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        cameras, scenes, count = [], [], 0
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            if limit is not None and count >= limit:
                break
            shard = self._read(path)
            self._images.append(shard["images"])
            self._labels.append(shard["labels"])
            cameras.append(shard["camera"].astype(np.int64))
            scenes.append(shard["scene"].astype(np.int64))
            count += len(shard["images"])
        if not count:
            raise FoveaError(
                f"expected shards such as 00000.npz in {self.folder}, found none; render it again"
            )
        self.camera, self.scene = np.concatenate(cameras), np.concatenate(scenes)
        self._ends = np.cumsum([len(images) for images in self._images])

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        try:
            with np.load(path, allow_pickle=False) as file:
                shard = {key: file[key] for key in ("images", "labels", "camera", "scene")}
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise FoveaError(
                f"{path} is no readable corpus shard ({error}); delete it and render again"
            ) from error
        images, labels = shard["images"], shard["labels"]
        if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:3]:
            raise FoveaError(
                f"{path}: expected images (n, S, S, 3) uint8 with labels (n, S, S), "
                f"got {images.dtype} {images.shape} and {labels.shape}"
            )
        strange = labels[(labels != BACKGROUND) & (labels >= len(self.categories))]
        if len(strange):
            raise FoveaError(
                f"{path}: label {strange[0]} is beyond the {len(self.categories)} categories of corpus.json"
            )
        return shard

    def __len__(self) -> int:
        return int(self._ends[-1])

    def image(self, index: int) -> np.ndarray:
        """(S, S, 3) uint8."""
        shard, row = self._find(index)
        return self._images[shard][row]

    def labels(self, index: int) -> np.ndarray:
        """(S, S) uint8."""
        shard, row = self._find(index)
        return self._labels[shard][row]

    def _find(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def split(self, held_out: bool) -> np.ndarray:
        """Indices of the training pictures or of the held-out ones (every 12th scene).

        Raises:
            FoveaError: the corpus has too few scenes for that part.
        """
        rows = np.flatnonzero((self.scene % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1) == held_out)
        if not len(rows):
            raise FoveaError(
                f"expected at least {_HELD_OUT_EVERY} scenes in {self.folder}, every {_HELD_OUT_EVERY}th is held out; "
                f"got {len(np.unique(self.scene))}: render more (--scenes)"
            )
        return rows


def coverage(labels: np.ndarray, categories: int, patch: int = 8) -> np.ndarray:
    """Share of every patch that each category covers: labels (B, S, S) -> float32 (B, N, K), row-major patches."""
    batch, side = labels.shape[:2]
    grid = side // patch
    cells = np.arange(grid).repeat(patch)
    cell = cells[:, None] * grid + cells[None, :]
    flat = (np.arange(batch)[:, None, None] * grid * grid + cell[None]) * 256 + labels
    counts = np.bincount(flat.ravel(), minlength=batch * grid * grid * 256)
    counts = counts.reshape(batch, grid * grid, 256)[..., :categories]
    return counts.astype(np.float32) / (patch * patch)
