"""Pictures for training without cached features: decoded from the videos, remembered as far as memory allows.

Shapes: T steps, n frames of an episode, h, w pixels.
"""

import threading

import numpy as np

from fovea.data.dataset import EpisodeInfo, RecordedDataset

GIGABYTE = 1 << 30


class Pictures:
    """Decoded frames of a data set.

    Windows are drawn at random, so nothing is ever evicted: episodes are kept whole until the budget is spent, of the
    others only the frames that are asked for are decoded, each time anew.

    Args:
        dataset: whose videos.
        memory: bytes to keep decoded episodes in.
    """

    def __init__(self, dataset: RecordedDataset, memory: int = 2 * GIGABYTE) -> None:
        self.dataset, self.memory = dataset, memory
        self._kept: dict[tuple[int, str], np.ndarray] = {}
        self._frame_bytes = 0  # of the largest picture so far
        self._used = 0
        self._lock = threading.Lock()

    def frames(self, episode: EpisodeInfo, camera: str, steps: np.ndarray) -> np.ndarray:
        """Frames `steps` (T,) of an episode, any order: (T, h, w, 3) uint8.

        Raises:
            FoveaError: a video is missing, truncated or damaged.
        """
        key = episode.index, camera
        if key in self._kept:
            return self._kept[key][steps]
        if self._used + len(episode) * self._frame_bytes <= self.memory:
            whole = self.dataset.frames(*key)
            with self._lock:
                self._frame_bytes = max(self._frame_bytes, whole[0].nbytes)
                if key not in self._kept and self._used + whole.nbytes <= self.memory:
                    self._kept[key] = whole
                    self._used += whole.nbytes
            return whole[steps]
        first = int(steps.min())
        return self.dataset.frames(*key, first, int(steps.max()) + 1 - first)[steps - first]
