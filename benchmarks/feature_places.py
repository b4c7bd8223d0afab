"""Do an encoder's patches say where they are? `python benchmarks/feature_places.py --dataset FOLDER`.

A linear readout learns the row and the column of a patch from its features alone, in some scenes, and is asked in
others. DINOv2 and SigLIP, whose raw features FocusVLA takes as values, carry positions of their own; an encoder that
does not needs `feature_positions=learned` (docs/focus_vla.md).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fovea.data.dataset import RecordedDataset, open_dataset
from fovea.encoders import VisionEncoder, create_vision_encoder
from fovea.errors import FoveaError
from fovea.nn.squares import average_squares
from fovea.pipelines.stages import current_commit

RIDGE = 1.0


@torch.no_grad()
def patches(encoder: VisionEncoder, data: RecordedDataset, camera: str, count: int, pool: int) -> Tensor:
    """Pooled features (scenes, patches, width) of `count` episodes' first pictures, spread over the data set."""
    chosen = np.linspace(0, len(data.episodes) - 1, min(count, len(data.episodes))).round().astype(int)
    shown = np.concatenate([data.frames(int(episode), camera, count=1) for episode in chosen])
    values = encoder.encode_image(torch.from_numpy(shown).permute(0, 3, 1, 2)).values
    return average_squares(values, None, grid=encoder.grid, side=pool)[0]


def read_places(features: Tensor, grid: tuple[int, int]) -> list[tuple[float, float]]:
    """(R squared, root mean square error in patches) of rows and of columns, on the last third of the scenes."""
    rows, columns = torch.meshgrid(*(torch.arange(side).float() for side in grid), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).flatten(0, 1)
    features = F.layer_norm(features, features.shape[-1:])
    features = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    first = len(features) * 2 // 3
    seen, asked = features[:first].flatten(0, 1), features[first:].flatten(0, 1)
    truth = places.repeat(first, 1)
    weights = torch.linalg.solve(seen.T @ seen + RIDGE * torch.eye(seen.shape[1]), seen.T @ truth)
    error = (asked @ weights - places.repeat(len(features) - first, 1)).square().mean(0)
    spread = places.var(0, correction=0)
    return [(1 - float(e / s), float(e) ** 0.5) for e, s in zip(error, spread, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--pool", type=int, default=2, help="patches are averaged in squares of this side")
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path("results/feature_places.md"))
    options = parser.parse_args()
    try:
        encoder, data = create_vision_encoder(options.encoder).freeze(), open_dataset(options.dataset)
    except FoveaError as error:
        parser.error(str(error))
    grid = (encoder.grid[0] // options.pool, encoder.grid[1] // options.pool)
    lines = [
        "| camera | row: R² | off by, patches | column: R² | off by, patches | loudness |",
        "|---|---|---|---|---|---|",
    ]
    for camera in data.cameras:
        features = patches(encoder, data, camera, options.scenes, options.pool)
        (row, row_off), (column, column_off) = read_places(features, grid)
        lines.append(
            f"| {camera} | {row:.2f} | {row_off:.1f} | {column:.2f} | {column_off:.1f} | {features.std():.3f} |"
        )
    command = f"python benchmarks/feature_places.py --dataset {options.dataset} --encoder {options.encoder}"
    text = "\n".join(
        [
            "# Do an encoder's patches say where they are?",
            "",
            f"`{command} --pool {options.pool} --scenes {options.scenes}` (commit {current_commit()})",
            "",
            f"A linear readout of one patch's features, {grid[0]} x {grid[1]} patches of {encoder.width} numbers,",
            f"learned on two thirds of {len(features)} scenes and asked on the others. R² of 1: the place is told",
            "exactly; of 0: not at all. Loudness: standard deviation of the numbers; states of the tiny language model",
            "have 1.",
            "",
            *lines,
            "",
        ]
    )
    print(text, end="")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
