"""Episodes of an evaluation as videos: which ones, and how."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fovea.data import keys
from fovea.encoders.words import split_words
from fovea.evaluation.actor import Actor, Observation
from fovea.lens.overlay import enlarge, episode_frames, noun_phrases
from fovea.lens.video import write_video
from fovea.lens.word_maps import CAMERA_NAMES, PolicyMaps

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
    """The video of an episode: its pictures; of a policy with maps those it sees, and below where the words look.

    Args:
        path: an .mp4.
        observations: T observations of one episode, as `LiberoEnv.observe` gives them.
        actor: the policy whose maps are shown.
    """
    if not actor.has_maps:
        names = [key for key in keys.IMAGES if key in observations[0]]
        views = ([enlarge(o[key], SIDE) for key in names] for o in observations)
        return write_video((np.concatenate(view, axis=1) for view in views), path, quality=29)
    looks = PolicyMaps(actor, "")
    runs = [observations[i : i + AT_ONCE] for i in range(0, len(observations), AT_ONCE)]
    found = [maps for run in runs for maps in looks.look_at(run)]
    cameras = {name: key for key, name in CAMERA_NAMES.items() if name in found[0]}
    pictures = {name: np.stack([o[key] for o in observations]) for name, key in cameras.items()}
    maps = {name: np.stack([its[name] for its in found]) for name in cameras}
    words = split_words(observations[0][keys.TASK])
    first = next(iter(maps.values()))
    read = {
        word for word in range(len(words)) if np.isfinite(first[:, word]).all()
    }  # others have no map to show
    phrases = [[word for word in run if word in read] for run in noun_phrases(words)]
    frames = episode_frames(
        pictures,
        {name: np.nan_to_num(its) for name, its in maps.items()},
        words,
        side=SIDE,
        phrases=[run for run in phrases if run],
    )
    return write_video(frames, path, quality=29)
