"""A data set, a SmolVLA and an encoder, all so small that a grafting run takes a second."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fovea.data.dataset import open_dataset
from fovea.data.record import assemble
from fovea.data.staging import write_episode
from fovea.encoders.base import VisionEncoder
from fovea.grafting.native import VLM, SmolVLASizes, build_smolvla, smolvla_config, statistics, write_vlm
from fovea.tokens import Tokens

SIZES = SmolVLASizes(32, 8, 16, 1, 2, 1, 32, 2, 2, 1, 48, head_dim=16, chunk=4, vocabulary=32)
LARGER = SmolVLASizes(32, 8, 16, 2, 2, 1, 48, 2, 2, 1, 64, head_dim=16, chunk=4, vocabulary=32)
SENTENCES = ("pick up number 0", "pick up number 1")


def make_suite(
    root: Path, *, episodes: int = 6, steps: int = 7, size: int = 32, first: int = 0, marked: bool = True
) -> Path:
    """Episodes in which a bright square says what to do: its column is the first number of the action."""
    staging = root.with_name(f"{root.name}-staging")
    for number in range(first, first + episodes):
        rng = np.random.default_rng(number)
        columns = rng.integers(0, size - 8, steps)
        images = np.zeros((steps, 2, size, size, 3), np.uint8)
        for step, column in enumerate(columns):
            images[step, :, 8:16, column : column + 8] = 255
        action = rng.uniform(-0.1, 0.1, (steps, 7)).astype(np.float32)
        action[:, 0] = columns / size * 2 - 1
        write_episode(
            staging,
            number,
            images=images,
            state=rng.normal(size=(steps, 8)).astype(np.float32),
            action=action,
            header={
                "start": {"suite": root.name, "task_id": number % 2, "init_state": 0},
                "task": SENTENCES[number % 2],
                "split": "val" if marked and number % 3 == 2 else "train",
            },
        )
    return assemble(staging, root, {"render": {"image_size": size}}, progress=False)


def make_backbone(folder: Path, data: list[Path], sizes: SmolVLASizes = SIZES, seed: int = 0) -> Path:
    """A checkpoint as the trainer writes it, of random weights, with its language model's files beside it."""
    from lerobot.policies.factory import make_pre_post_processors

    vlm = write_vlm(folder / VLM, sizes, SENTENCES)
    config = smolvla_config(sizes, vlm, picture=(32, 32))
    policy = build_smolvla(config, seed)
    processors = make_pre_post_processors(
        config, dataset_stats=statistics([open_dataset(root) for root in data])
    )
    target = folder / "pretrained_model"
    policy.save_pretrained(target)
    for processor in processors:
        processor.save_pretrained(target)
    return folder


class Columns(VisionEncoder):
    """An encoder that hands on the mean brightness of each cell, and counts how many pictures it saw."""

    def __init__(self, grid: tuple[int, int] = (8, 8)) -> None:
        super().__init__()
        self.name, self.tap, self.image_size, self.grid, self.width = "columns", "out", 32, grid, 4
        self.scale = torch.nn.Parameter(torch.ones(4))
        self.seen = 0

    def preprocess(self, images: Tensor) -> Tensor:
        return images.float() / 255

    def encode_image(self, images: Tensor) -> Tokens:
        self.seen += len(images)
        cells = torch.nn.functional.adaptive_avg_pool2d(self.preprocess(images).mean(1), self.grid).flatten(1)
        place = torch.linspace(0, 1, cells.shape[1]).expand_as(cells)
        values = torch.stack([cells, 1 - cells, place, place**2], -1) * self.scale
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))

    def describe(self) -> dict[str, Any]:
        return {"grid": list(self.grid)}


@contextlib.contextmanager
def quiet() -> Any:
    """LeRobot prints while it builds."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
