"""Small H.264 videos that every browser plays."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fovea.data.files import full_disk_named
from fovea.errors import FoveaError


def write_video(frames: Iterable[NDArray[np.uint8]], path: Path, *, fps: int = 20, quality: int = 27) -> Path:
    """Encode frames as an MP4 (H.264, yuv420p, index at the front so that it plays while it loads).

    Args:
        frames: (h, w, 3) uint8 RGB, all of one size; h and w even, since yuv420p halves the colour planes.
        path: where to write; written beside it first and moved when complete.
        fps: frames a second. LIBERO acts 20 times a second, so 20 plays at real speed.
        quality: x264's constant rate factor; 18 looks lossless, 27 is small.

    Raises:
        FoveaError: without a frame, for frames of odd or changing size, or on a full disk.
    """
    import av

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.mp4")
    size: tuple[int, ...] | None = None
    try:
        with (
            full_disk_named(path),
            av.open(str(part), "w", options={"movflags": "+faststart"}) as container,
        ):
            options = {"crf": str(quality), "preset": "medium"}
            stream = container.add_stream("libx264", rate=fps, options=options)
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, fps)
            stream.codec_context.thread_count = 1
            for frame in frames:
                if size is None:
                    size = frame.shape
                    stream.height, stream.width = size[0], size[1]
                if frame.shape != size or frame.shape[0] % 2 or frame.shape[1] % 2:
                    raise FoveaError(f"expected frames of one even size, got {frame.shape} after {size}")
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            if size is None:
                raise FoveaError(f"expected at least one frame for the video {path.name}, got none")
            container.mux(stream.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
