"""One grafting run, in whatever process: open what a cell needs, train, score, give a record.

Shape letters: B batch, N tokens, V width of the encoder.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fovea.data.dataset import open_dataset
from fovea.grafting.backbones import Backbone, Inputs
from fovea.grafting.cells import Cell, native_source
from fovea.grafting.loading import load_backbone, use_data_statistics
from fovea.grafting.native import statistics
from fovea.grafting.samples import Moment, Samples
from fovea.grafting.scores import derangement, score
from fovea.grafting.settings import Recipe, SampleSettings, ScoreSettings
from fovea.grafting.tokens import StoredTokens, TokenPlace
from fovea.grafting.training import lora, train
from fovea.grafting.wrapper import Graft, Projector

SCALE_SAMPLES = 64


@dataclass(frozen=True)
class BackbonePlace:
    """How a process loads a backbone: see `load_backbone`."""

    name: str
    root: Path | None = None
    device: str = "cpu"
    tokenizer: str | None = None


@dataclass(frozen=True)
class Job:
    """A cell with all that a process needs to run it.

    Attributes:
        id: of the outcome; names its files.
        tokens: source -> where its tokens of this suite lie; the backbone's own native tokens are always among them.
        state: file in which an unfinished run is kept.
    """

    cell: Cell
    id: str
    backbone: BackbonePlace
    data: Path
    tokens: dict[str, TokenPlace]
    samples: SampleSettings
    recipe: Recipe
    scoring: ScoreSettings
    state: Path


@functools.lru_cache(maxsize=1)
def _backbone(place: BackbonePlace) -> Backbone:
    return load_backbone(place.name, root=place.root, device=place.device, tokenizer=place.tokenizer)


@functools.lru_cache(maxsize=2)
def _samples(data: Path, settings: SampleSettings) -> Samples:
    return Samples(open_dataset(data), settings)


def run_job(job: Job) -> dict[str, Any]:
    """Run a cell; a killed one goes on from its saved state.

    Returns:
        Its record: `cell`, `id`, `scores` (per held-out sample), `shuffled` (the same with another sample's pictures,
        for a graft that was trained on its own), `episodes` (of the samples), `losses` (ten means), `trained` (numbers
        trained), `parameters` (of the backbone), `seconds`.
    """
    samples = _samples(job.data, job.samples)
    backbone = _backbone(job.backbone)
    if not backbone.own_statistics:
        use_data_statistics(backbone, statistics([samples.dataset]))
    return run_cell(backbone, samples, job)


def run_cell(
    backbone: Backbone, samples: Samples, job: Job, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """`run_job` with an open backbone and samples."""
    began = time.monotonic()
    cell, run = job.cell, _Run(backbone, samples, job)
    losses: list[float] = []
    with run.graft:
        if cell.kind == "lora":
            with lora(backbone, job.recipe.lora_rank, cell.seed) as parameters:
                losses = run.train(parameters, job.recipe.lora_learning_rate, tick)
                trained = sum(p.numel() for p in parameters.values())
                scores, shuffled = run.score()
        else:
            projector = run.graft.projector
            parameters = dict(projector.named_parameters()) if projector is not None and cell.trains else {}
            trained = sum(p.numel() for p in parameters.values())
            if parameters:
                losses = run.train(parameters, job.recipe.learning_rate, tick)
            scores, shuffled = run.score()
    job.state.unlink(missing_ok=True)
    return {
        "id": job.id,
        "cell": cell.asdict(),
        "label": cell.label,
        "scores": scores,
        "shuffled": shuffled,
        "episodes": [moment.episode.index for moment in samples.held_out],
        "losses": _means(losses, 10),
        "trained": trained,
        "parameters": sum(p.numel() for p in backbone.policy.parameters()),
        "seconds": round(time.monotonic() - began, 2),
    }


class _Run:
    """A cell at work."""

    def __init__(self, backbone: Backbone, samples: Samples, job: Job) -> None:
        self.backbone, self.samples, self.job, self.cell = backbone, samples, job, job.cell
        self.store = StoredTokens(job.tokens[job.cell.source])
        self.side = job.cell.side or backbone.side
        self.graft = Graft(backbone.hook, self._projector())

    def _projector(self) -> Projector | None:
        if self.cell.kind in ("native", "lora"):
            return None
        return Projector(
            self.store.grid(self.side),
            self.store.width,
            self.side,
            self.backbone.width,
            scale=self._native_scale(),
            seed=self.cell.seed,
            dtype=self.backbone.dtype,
        ).to(self.backbone.device)

    def _native_scale(self) -> float:
        """Root mean square of the native tokens on some training samples."""
        native = StoredTokens(self.job.tokens[native_source(self.cell.backbone, tower=False)])
        rows = np.array([moment.row for moment in self.samples.train[:SCALE_SAMPLES]])
        tokens = torch.stack(native.read(rows, self.backbone.side))
        return float(tokens.square().mean().sqrt())

    def train(
        self, parameters: dict[str, nn.Parameter], peak: float, tick: Callable[[], None]
    ) -> list[float]:
        def draw(step: int) -> tuple[Inputs, list[Tensor]]:
            moments = self.samples.draw(self.cell.seed, step, self.job.recipe.batch_size)
            rng = np.random.default_rng([self.cell.seed, step, 1])
            shown = [moments[i] for i in derangement(len(moments), rng)] if self._shuffles else moments
            return self._inputs(moments), self._tokens(shown)

        return train(
            self.backbone,
            parameters,
            draw,
            self.job.recipe,
            seed=self.cell.seed,
            peak=peak,
            state=self.job.state,
            tick=tick,
        )

    @property
    def _shuffles(self) -> bool:
        return self.cell.vision == "shuffled"

    def score(self) -> tuple[dict[str, list[float]], dict[str, list[float]] | None]:
        """As trained, and with another sample's pictures where it was trained on its own."""
        scores = self._score(shuffle=self._shuffles)
        if self.cell.vision != "pictures":
            return scores, None
        return scores, self._score(shuffle=True)

    def _score(self, *, shuffle: bool) -> dict[str, list[float]]:
        held_out, settings = self.samples.held_out, self.job.scoring
        order = np.arange(len(held_out))
        if shuffle:
            order = derangement(len(held_out), np.random.default_rng([settings.seed, 2]))

        def read(numbers: np.ndarray) -> tuple[Inputs, list[Tensor]]:
            moments = [held_out[int(i)] for i in numbers]
            return self._inputs(moments), self._tokens([held_out[int(order[i])] for i in numbers])

        return score(self.backbone, read, len(held_out), settings)

    def _inputs(self, moments: list[Moment]) -> Inputs:
        return self.backbone.inputs(self.samples.batch(moments, self.backbone.chunk))

    def _tokens(self, moments: list[Moment]) -> list[Tensor]:
        """One (B, N, V) per camera; native tokens in the language model's dtype."""
        if self.cell.vision == "zero_image":
            tokens = self.store.blank(len(moments), self.side)
        else:
            tokens = self.store.read(np.array([moment.row for moment in moments]), self.side)
        if self.cell.vision == "zero_embedding":
            tokens = [torch.zeros_like(camera) for camera in tokens]
        dtype = self.backbone.dtype if self.graft.projector is None else torch.float32
        return [camera.to(self.backbone.device, dtype) for camera in tokens]


def _means(values: list[float], count: int) -> list[float]:
    """At most `count` means of neighbours."""
    parts = np.array_split(np.array(values), min(count, len(values))) if values else []
    return [round(float(part.mean()), 6) for part in parts]
