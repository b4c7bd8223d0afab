"""Episodes of an evaluation as videos: which ones, and how."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fovea.evaluation.actor import Actor, Observation
from fovea.lens.overlay import enlarge, episode_frames, split_words
from fovea.lens.video import write_video

AT_ONCE = 32  # frames whose maps are computed together
SIDE = 256  # of each picture in a video, pixels


class Films:
    """Which episodes become videos.

    Args:
        wanted: numbers of episodes; or one number n: the first n successes and the first n failures, of a task
            one of each at most.
        records: episodes of an earlier run; what was filmed there counts.
    """

    def __init__(self, wanted: int | Sequence[int], records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.wanted = wanted
        self._filmed = [_kind(record) for record in records if record.get("video")]

    def may_want(self, number: int) -> bool:
        """Whether the pictures of an episode that begins should be kept."""
        return self.wanted > 0 if isinstance(self.wanted, int) else number in self.wanted

    def take(self, number: int, record: Mapping[str, Any]) -> bool:
        """Whether an episode that has ended is to be filmed; asking counts it as filmed."""
        if not isinstance(self.wanted, int):
            return number in self.wanted
        kind = _kind(record)
        if kind in self._filmed or sum(success == kind[0] for success, *_ in self._filmed) >= self.wanted:
            return False
        self._filmed.append(kind)
        return True


def _kind(record: Mapping[str, Any]) -> tuple[bool, str, int]:
    return bool(record["success"]), record["start"]["suite"], record["start"]["task_id"]


def write_film(path: Path, observations: Sequence[Observation], actor: Actor) -> Path:
    """The video of an episode: its pictures and, where the policy has maps, below them where the words look.

    Args:
        path: an .mp4.
        observations: T observations of one episode, as `LiberoEnv.observe` gives them.
        actor: the policy whose maps are shown.
    """
    prefix = "observation.images."
    names = sorted(key.removeprefix(prefix) for key in observations[0] if key.startswith(prefix))
    pictures = {name: np.stack([o[prefix + name] for o in observations]) for name in names}
    if not actor.has_maps:
        views = ([enlarge(pictures[name][t], SIDE) for name in names] for t in range(len(observations)))
        return write_video((np.concatenate(view, axis=1) for view in views), path, quality=29)
    runs = [observations[i : i + AT_ONCE] for i in range(0, len(observations), AT_ONCE)]
    maps = np.concatenate([actor.look(actor.batch(run)) for run in runs])
    words = split_words(observations[0]["task"])
    words = [*words, *["·"] * maps.shape[2]][
        : maps.shape[2]
    ]  # an encoder may split words or see fewer of them
    return write_video(
        episode_frames(pictures, {name: maps[:, c] for c, name in enumerate(names)}, words, side=SIDE),
        path,
        quality=29,
    )
