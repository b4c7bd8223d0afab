"""Which moments of which episodes every candidate is trained and scored on: the same ones for all.

Shapes: n frames of an episode, h, w pixels, B samples, H actions of a chunk, A numbers of an action, S of a state.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fovea.data import keys
from fovea.data.dataset import EpisodeInfo, RecordedDataset
from fovea.errors import FoveaError
from fovea.grafting.settings import SampleSettings

LEAST_EPISODES = 2
MEMORY = 2 << 30  # bytes of decoded pictures to keep


@dataclass(frozen=True)
class Moment:
    """A step of an episode, and its row among the chosen frames."""

    episode: EpisodeInfo
    step: int
    row: int


class Samples:
    """The moments of one data set.

    Attributes:
        frames: the data set cut down to the frames of these moments.
        train, held_out: moments.

    Raises:
        FoveaError: too few episodes on either side of the split.
    """

    def __init__(self, dataset: RecordedDataset, settings: SampleSettings) -> None:
        self.dataset, self.settings = dataset, settings
        training, held_out = split(dataset, settings.share)
        rng = np.random.default_rng([settings.seed, 0])
        chosen = {
            "train": _choose(training, settings.train, rng, spread=False),
            "held_out": _choose(held_out, settings.held_out, rng, spread=True),
        }
        steps: dict[int, set[int]] = {}
        for episode, step in chosen["train"] + chosen["held_out"]:
            steps.setdefault(episode.index, set()).add(step)
        self.frames = FrameSubset(dataset, {index: sorted(own) for index, own in steps.items()})
        self.train, self.held_out = (
            [Moment(episode, step, self.frames.row[episode.index, step]) for episode, step in chosen[part]]
            for part in ("train", "held_out")
        )

    def batch(self, moments: Sequence[Moment], horizon: int) -> dict[str, Any]:
        """States, chunks and sentences, without pictures: see `Backbone.inputs`."""
        starts = np.array([moment.episode.start for moment in moments])[:, None]
        lengths = np.array([len(moment.episode) for moment in moments])[:, None]
        label_from = np.array([moment.episode.label_from for moment in moments])[:, None]
        steps = np.array([moment.step for moment in moments])[:, None] + np.arange(horizon)
        return {
            keys.STATE: torch.from_numpy(
                self.dataset.state[(starts + np.clip(steps[:, :1], 0, lengths - 1))[:, 0]]
            ),
            keys.ACTION: torch.from_numpy(self.dataset.action[starts + np.clip(steps, 0, lengths - 1)]),
            f"{keys.ACTION}_is_pad": torch.from_numpy((steps < label_from) | (steps >= lengths)),
            keys.TASK: [moment.episode.task for moment in moments],
        }

    def draw(self, seed: int, step: int, count: int) -> list[Moment]:
        """Training moments of one update, with replacement: a pure function of seed and step."""
        numbers = np.random.default_rng([seed, step]).integers(len(self.train), size=count)
        return [self.train[int(number)] for number in numbers]

    def describe(self) -> dict[str, Any]:
        """JSON-able: the data, the episodes and the frames."""
        return {
            "dataset": self.dataset.fingerprint,
            "frames": self.frames.fingerprint,
            "train": len(self.train),
            "held_out": len(self.held_out),
            "train_episodes": len({m.episode.index for m in self.train}),
            "held_out_episodes": sorted({m.episode.index for m in self.held_out}),
        }


def split(dataset: RecordedDataset, share: float) -> tuple[list[EpisodeInfo], list[EpisodeInfo]]:
    """Training and held-out episodes: as the data set marks them, else the last `share` of each task's.

    Raises:
        FoveaError: fewer than two episodes on either side.
    """
    training, held_out = dataset.select("train"), dataset.select("val")
    if not held_out:
        training = []
        by_task: dict[str, list[EpisodeInfo]] = {}
        for episode in dataset.episodes:
            by_task.setdefault(episode.task, []).append(episode)
        for episodes in by_task.values():
            last = len(episodes) - max(1, round(share * len(episodes)))
            training, held_out = training + episodes[:last], held_out + episodes[last:]
    if len(training) < LEAST_EPISODES or len(held_out) < LEAST_EPISODES:
        raise FoveaError(
            f"expected at least {LEAST_EPISODES} episodes to train on and {LEAST_EPISODES} held out, {dataset.root} "
            f"gives {len(training)} and {len(held_out)} of {len(dataset.episodes)}; collect more (`fovea collect "
            "--episodes`, --val_share)"
        )
    return training, held_out


def _choose(
    episodes: Sequence[EpisodeInfo], count: int, rng: np.random.Generator, *, spread: bool
) -> list[tuple[EpisodeInfo, int]]:
    """At most `count` different moments, in the order of the data set: spread evenly, or drawn."""
    every = [(episode, step) for episode in episodes for step in range(episode.label_from, len(episode))]
    if count >= len(every):
        return every
    if spread:
        numbers = np.unique(np.linspace(0, len(every) - 1, count).round().astype(int))
    else:
        numbers = np.sort(rng.choice(len(every), count, replace=False))
    return [every[int(number)] for number in numbers]


class FrameSubset(RecordedDataset):
    """Chosen frames of a data set, as a data set: its cached features hold these frames only.

    Every encoder reads the same few frames of all episodes, so they are decoded once and kept, up to 2 GB.

    Args:
        whole: the data set.
        steps: steps of each episode, ascending.
    """

    def __init__(self, whole: RecordedDataset, steps: dict[int, list[int]]) -> None:
        self.whole, self.steps = whole, steps
        self.root, self.cameras, self.fps = whole.root, whole.cameras, whole.fps
        self.stats, self.record = whole.stats, whole.record
        self._sources = sorted(steps)
        self._kept: dict[tuple[int, str], np.ndarray] = {}
        self.episodes = []
        self.row: dict[tuple[int, int], int] = {}
        rows: list[int] = []
        for number, index in enumerate(self._sources):
            episode = whole.episodes[index]
            begin = len(rows)
            self.row |= {(index, step): begin + place for place, step in enumerate(steps[index])}
            rows += [episode.start + step for step in steps[index]]
            self.episodes.append(EpisodeInfo(number, begin, len(rows), episode.task, episode.split))
        self.state, self.action = whole.state[rows], whole.action[rows]

    def frames(self, episode_index: int, camera: str, first: int = 0, count: int | None = None) -> np.ndarray:
        """Chosen pictures of one episode and camera: (n, h, w, 3) uint8.

        Raises:
            FoveaError: pictures that are not square, or a damaged video.
        """
        key = episode_index, camera
        if key not in self._kept:
            source = self._sources[episode_index]
            pictures = self.whole.frames(source, camera)[self.steps[source]]
            self._check(pictures, camera)
            if sum(own.nbytes for own in list(self._kept.values())) + pictures.nbytes > MEMORY:
                return pictures[first:][:count]
            self._kept[key] = pictures
        return self._kept[key][first:][:count]

    def _check(self, pictures: np.ndarray, camera: str) -> None:
        if pictures.shape[1] != pictures.shape[2]:
            raise FoveaError(
                f"expected square pictures, {self.root} has {pictures.shape[1]} x {pictures.shape[2]} in {camera}: "
                "policies pad them and encoders stretch them, so candidates would not see the same; crop them first"
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the data set's contents and the choice of frames."""
        parts = [self.whole.fingerprint, [[index, self.steps[index]] for index in self._sources]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
