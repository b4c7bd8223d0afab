"""How far do a FocusVLA's gates open? `python benchmarks/gate_openings.py --checkpoint FOLDER --dataset FOLDER`.

Frames of a data set go through the policy; of every layer's gate: mean and deviation of its openings (0: shut, 1: open)
over frames, actions and channels, and what nine tenths of them lie between. A gate begins at one half everywhere.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fovea.data import keys
from fovea.data.dataset import RecordedDataset, open_dataset
from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor
from fovea.nn.gates import Gate


@torch.no_grad()
def openings(actor: Actor, data: RecordedDataset, frames: int) -> dict[str, Tensor]:
    """Layer -> openings of its gate, at `frames` frames, each from the middle of an episode."""
    found: dict[str, list[Tensor]] = {}

    def listen(name: str, layer: nn.Module) -> None:
        layer.register_forward_hook(
            lambda _, __, out: found.setdefault(name, []).append(out.sigmoid().float().cpu())
        )

    for name, module in actor.policy.named_modules():
        if isinstance(module, Gate) and hasattr(module, "opening"):
            listen(name, module.opening)
    starts = np.cumsum([0, *(len(episode) for episode in data.episodes)])
    chosen = np.linspace(0, len(data.episodes) - 1, min(frames, len(data.episodes))).round().astype(int)
    for number in chosen:
        place = len(data.episodes[number]) // 2
        batch = {
            camera: torch.from_numpy(data.frames(int(number), camera, first=place, count=1)).permute(
                0, 3, 1, 2
            )
            / 255
            for camera in data.cameras
        }
        batch[keys.STATE] = torch.from_numpy(data.state[starts[number] + place][None]).float()
        actor.policy.predict_action_chunk(
            actor.preprocessor({**batch, keys.TASK: [data.episodes[number].task]})
        )
    if not found:
        raise FoveaError("expected a policy with gates that open (head or element), got one without")
    return {name: torch.cat(its) for name, its in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=60)
    options = parser.parse_args()
    try:
        found = openings(Actor.load(options.checkpoint), open_dataset(options.dataset), options.frames)
    except FoveaError as error:
        parser.error(str(error))
    print("| gate | mean | deviation | nine tenths between |\n|---|---|---|---|")
    for name, its in found.items():
        low, high = np.quantile(its.numpy(), (0.05, 0.95))
        print(f"| {name} | {its.mean():.2f} | {its.std():.2f} | {low:.2f} and {high:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
