"""Milliseconds a picture of the encoder that ships, beside CLIP ViT-B/32 (random weights) in the same run.

`python benchmarks/encoder_speed.py`: one thread, two pictures a call as in acting; the fastest of several rounds, taken
turn about, so that a busy machine hits both alike.
"""

import json
import time

import numpy as np
import open_clip
import torch

from fovea.encoders import create_encoder
from fovea.encoders.clip import ClipEncoder

ROUNDS, CALLS, PICTURES = 7, 5, 2


def seconds(encoder: torch.nn.Module, pictures: torch.Tensor) -> float:
    """Wall time of one picture over a few calls."""
    began = time.perf_counter()
    for _ in range(CALLS):
        encoder.encode_image(pictures)
    return (time.perf_counter() - began) / (CALLS * len(pictures))


def main() -> None:
    torch.set_num_threads(1)
    name = "ViT-B-32"
    clip = ClipEncoder(open_clip.create_model(name), name=name)
    clip.freeze()
    encoders = {"tiny": create_encoder("tiny"), name: clip}
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (PICTURES, 3, 128, 128), np.uint8))
    times: dict[str, list[float]] = {key: [] for key in encoders}
    for encoder in encoders.values():
        seconds(encoder, pictures)
    for _ in range(ROUNDS):
        for key, encoder in encoders.items():
            times[key].append(seconds(encoder, pictures))
    best = {key: 1e3 * min(values) for key, values in times.items()}
    spread = {key: 1e3 * (max(values) - min(values)) for key, values in times.items()}
    print(
        json.dumps(
            {
                "ms_per_picture": best,
                "spread_ms": spread,
                "ratio_to_ViT-B-32": best["ViT-B-32"] / best["tiny"],
            }
        )
    )


if __name__ == "__main__":
    main()
