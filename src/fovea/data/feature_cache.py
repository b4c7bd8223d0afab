"""Feature cache: the patches of a frozen encoder for every frame of a data set, computed once, shared by every run.

One folder per key (encoder identity x data-set contents x augmentation variant) under $FOVEA_CACHE/features (by default
~/.cache/fovea/features):

    features.json   what the numbers are: shape, encoder, data set, variant
    patches.f16     (F, C, N, D) little-endian float16, no header
    journal.jsonl   one line per finished episode: {"episode", "crc32"}; written after its patches are on disk
    sealed.json     size and time of patches.f16 when the last episode was finished

Reading checks an episode's CRC the first time it is touched in a process, so a flipped bit or a cut file stops the run
instead of spoiling it. Building checks too where `sealed.json` does not match, and computes damaged episodes again.

Shapes: F frames of the data set, n of one episode, C cameras, N patches, D width.
"""

import contextlib
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fovea.data.files import read_json
from fovea.errors import FoveaError

FORMAT = 1
_EXPONENT = np.uint16(0x7C00)  # all bits set in a float16 that is NaN or infinite


class FeatureCache:
    """A finished cache, memory-mapped; `fovea.data.feature_build.build_features` makes and opens one.

    Attributes:
        shape: (F, C, N, D).
        about: features.json: `encoder` (name), `identity`, `tap`, `dataset` (fingerprint), `variant`, `cameras`.

    Raises:
        FoveaError: if the folder is no finished cache or its file is cut; on use, if an episode's patches are damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.about = read_json(self.folder / "features.json", "feature cache")
        self.shape: tuple[int, int, int, int] = tuple(self.about["shape"])
        self._bounds = np.array([start for start, _ in self.about["episodes"]] + [self.shape[0]])
        self._checksums = read_journal(self.folder)
        missing = sum(number not in self._checksums for number in range(len(self.about["episodes"])))
        if missing:
            raise FoveaError(
                f"the feature cache {folder} lacks {missing} episodes; build it again to finish it"
            )
        path, expected = self.folder / "patches.f16", 2 * int(np.prod(self.shape))
        size = path.stat().st_size if path.is_file() else 0
        if size != expected:
            raise FoveaError(
                f"{path} has {size} bytes, expected {expected}: it was cut; build the cache again to mend it"
            )
        frames, cameras, patches, width = self.shape
        self._map = np.memmap(path, np.float16, "r", shape=(frames * cameras, patches, width))
        self._verified = np.zeros(len(self.about["episodes"]), bool)

    @property
    def frames(self) -> int:
        """F."""
        return self.shape[0]

    def gather(self, rows: np.ndarray, camera: int, out: np.ndarray | None = None) -> Tensor:
        """Patches of one camera for frame numbers of any shape (...): float16 (..., N, D), copied to `out`."""
        if rows.min() < 0 or rows.max() >= self.frames:
            raise FoveaError(f"expected frames 0..{self.frames - 1}, got {rows.min()}..{rows.max()}")
        for episode in np.unique(np.searchsorted(self._bounds, rows, side="right") - 1):
            if not self._verified[episode]:
                self._verify(int(episode))
        places = rows * self.shape[1] + camera
        return torch.from_numpy(
            self._map.take(places, axis=0, out=out, mode="clip")
        )  # "raise" would copy `out`

    def episode(self, index: int) -> np.ndarray:
        """All patches of one episode: (n, C, N, D) float16, a view of the file."""
        self._verify(index)
        rows = self._map[self._bounds[index] * self.shape[1] : self._bounds[index + 1] * self.shape[1]]
        return rows.reshape(-1, *self.shape[1:])

    def verify(self) -> list[int]:
        """Check every episode now; return the damaged ones, which the next build computes anew."""
        damaged = [index for index in range(len(self._verified)) if not self._sound(index)]
        if damaged:
            (self.folder / "sealed.json").unlink(missing_ok=True)
        return damaged

    def _sound(self, index: int) -> bool:
        rows = self._map[self._bounds[index] * self.shape[1] : self._bounds[index + 1] * self.shape[1]]
        return zlib.crc32(rows) == self._checksums[index]

    def _verify(self, index: int) -> None:
        if not self._sound(index):
            with contextlib.suppress(OSError):  # of a folder that may not be written to
                (self.folder / "sealed.json").unlink()  # else building again would take the file for whole
            raise FoveaError(
                f"the cached patches of episode {index} in {self.folder} are damaged (their CRC differs); "
                "`fovea cache --verify` finds all of them, and computes them anew when it is run again"
            )
        rows = self._map[self._bounds[index] * self.shape[1] : self._bounds[index + 1] * self.shape[1]]
        if bad := int((np.bitwise_and(rows.view(np.uint16), _EXPONENT) == _EXPONENT).any((1, 2)).sum()):
            raise FoveaError(
                f"the cached patches of episode {index} in {self.folder} hold NaN or infinity in {bad} pictures; "
                "delete the folder and build it with a sound encoder"
            )
        self._verified[index] = True


def read_journal(folder: Path) -> dict[int, int]:
    """CRC of each finished episode; a half-written last line counts as not written."""
    path, checksums = folder / "journal.jsonl", {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            checksums[int(entry["episode"])] = int(entry["crc32"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
    return checksums
