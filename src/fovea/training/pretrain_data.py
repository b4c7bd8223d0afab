"""Batches for `fovea pretrain`: object-centred crops, and sentences about what they show.

Every batch is drawn from (seed, step) alone, so a resumed run sees the same batches.

Shape letters: B pictures, S side in pixels, N patches, W supervised words, K categories.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fovea.data.phrases import Aligned, Lexicon
from fovea.data.scene_corpus import BACKGROUND, SceneCorpus, coverage
from fovea.training.pretrain_loss import VISIBLE

PATCH = 8


@dataclass(frozen=True)
class Batch:
    """Pictures and sentences of one step.

    Attributes:
        pixels: (B, 3, S, S) float in 0..255, before augmentation.
        cells: (B, N) grid cells of a crop's patches, or None for whole pictures.
        cover: (B, N, K) share of each patch that each category covers.
        sentences: what was drawn.
        targets: (number of sentences, K) 0/1.
        picked: (W, 2) sentence and position of each supervised word; position 0 is the whole sentence.
        owners: (W, K) 0/1.
    """

    pixels: Tensor
    cells: Tensor | None
    cover: Tensor
    sentences: list[Aligned]
    targets: Tensor
    picked: Tensor
    owners: Tensor


class BatchSource:
    """Draws batches from the training part of a corpus."""

    def __init__(self, corpus: SceneCorpus, lexicon: Lexicon, seed: int, sentences: int, words: int) -> None:
        self.corpus, self.lexicon, self.seed = corpus, lexicon, seed
        self.sentences, self.words = sentences, words
        self.rows = corpus.split(held_out=False)
        self.index = {name: i for i, name in enumerate(corpus.categories)}

    def draw(self, step: int, size: int, crop: int | None) -> Batch:
        """Draw the batch of a step: `size` pictures, cut to `crop` pixels around an object if given."""
        rng = np.random.default_rng([self.seed, step])
        rows = rng.choice(self.rows, size, replace=len(self.rows) < size)
        images = np.stack([self.corpus.image(row) for row in rows])
        labels = np.stack([self.corpus.labels(row) for row in rows])
        cells = None
        if crop is not None:
            images, labels, cells = _crops(images, labels, crop, rng)
        cover = coverage(labels, len(self.corpus.categories), PATCH)
        visible = np.flatnonzero((cover.sum(1) > VISIBLE).any(0))
        aligned = self._sentences([self.corpus.categories[i] for i in visible], rng)
        targets = torch.stack([self._flags(a.target) for a in aligned])
        picked = np.array([(s, p) for s, a in enumerate(aligned) for p in range(1 + len(a.words))])
        if len(picked) > self.words:
            picked = picked[np.sort(rng.choice(len(picked), self.words, replace=False))]
        owners = torch.stack(
            [targets[s] if p == 0 else self._flags(aligned[s].owners[p - 1]) for s, p in picked]
        )
        return Batch(
            pixels=torch.from_numpy(images).permute(0, 3, 1, 2).float(),
            cells=None if cells is None else torch.from_numpy(cells),
            cover=torch.from_numpy(cover),
            sentences=aligned,
            targets=targets,
            picked=torch.from_numpy(picked),
            owners=owners,
        )

    def _sentences(self, visible: list[str], rng: np.random.Generator) -> list[Aligned]:
        """One sentence for each visible type in turn, until there are enough."""
        drawn: list[Aligned] = []
        visible = visible or self.corpus.categories
        while len(drawn) < self.sentences:
            for i in rng.permutation(len(visible))[: self.sentences - len(drawn)]:
                drawn.append(self.lexicon.draw(visible[i], visible, rng))
        return drawn

    def _flags(self, types: frozenset[str]) -> Tensor:
        flags = torch.zeros(len(self.index))
        flags[[self.index[kind] for kind in types if kind in self.index]] = 1
        return flags


def _crops(
    images: np.ndarray, labels: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut squares on the patch grid around a random pixel of a random object: images, labels, cells (B, N)."""
    grid, window = images.shape[1] // PATCH, side // PATCH
    cut_images, cut_labels, cells = [], [], []
    for image, label in zip(images, labels, strict=True):
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=256)[:BACKGROUND] > PATCH)
        if len(present):
            ys, xs = np.nonzero(label == rng.choice(present))
            pixel = rng.integers(len(ys))
            centre = np.array([ys[pixel], xs[pixel]]) // PATCH
        else:
            centre = rng.integers(grid, size=2)
        row, column = np.clip(centre - rng.integers(1, max(2, window - 1), size=2), 0, grid - window)
        cut = np.s_[row * PATCH : row * PATCH + side, column * PATCH : column * PATCH + side]
        cut_images.append(image[cut])
        cut_labels.append(label[cut])
        steps = np.arange(window)
        cells.append(((row + steps)[:, None] * grid + column + steps[None, :]).ravel())
    return np.stack(cut_images), np.stack(cut_labels), np.stack(cells)
