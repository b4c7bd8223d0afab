"""A picture sheet of suites: each task's first initial state and its instruction, as the policy gets them.

`python -m fovea.sim.sheet` makes docs/images/unseen_tasks.jpg.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fovea.data.files import atomic_write
from fovea.progress import progress_bar
from fovea.sim.env import LiberoEnv
from fovea.sim.layout import EpisodeStart
from fovea.sim.suites import get_tasks
from fovea.sim.unseen import SUITES

COLUMNS = 5
GAP, HEADING, CAPTION = 8, 30, 40  # pixels
INK, PAPER = (30, 32, 36), (255, 255, 255)


def sheet(pictures: dict[str, list[tuple[str, NDArray[np.uint8]]]], size: int) -> Image.Image:
    """Lay out pictures (size, size, 3) with their captions, one block with a heading for each key."""
    rows = {name: -(-len(entries) // COLUMNS) for name, entries in pictures.items()}
    cell = size + CAPTION + GAP
    height = sum(HEADING + count * cell for count in rows.values()) + GAP
    canvas = Image.new("RGB", (COLUMNS * (size + GAP) + GAP, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = GAP
    for name, entries in pictures.items():
        draw.text((GAP, top + HEADING / 2 - 4), name, fill=INK, font=ImageFont.load_default(17), anchor="lm")
        top += HEADING
        for number, (caption, picture) in enumerate(entries):
            line, column = divmod(number, COLUMNS)
            left, upper = GAP + column * (size + GAP), top + line * cell
            canvas.paste(Image.fromarray(picture), (left, upper))
            text = textwrap.fill(f"{number}  {caption}", width=size // 6)
            draw.multiline_text(
                (left, upper + size + 3), text, fill=INK, font=ImageFont.load_default(12), spacing=2
            )
        top += rows[name] * cell
    return canvas


def photograph(suite: str, size: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Instruction and agent view (size, size, 3) of every task of a suite, from its first initial state."""
    entries = []
    with progress_bar() as bar:
        progress = bar.add_task(suite, total=len(get_tasks(suite)), note="")
        for task in get_tasks(suite):
            env = LiberoEnv(suite, task.task_id, image_size=size)
            env.reset(EpisodeStart(suite, task.task_id, 0))
            entries.append((env.instruction, env.image("agentview")))
            env.close()
            bar.advance(progress)
    return entries


def main() -> None:
    """`python -m fovea.sim.sheet [--suites NAME ...] [--out FILE] [--size PIXELS]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", nargs="+", default=list(SUITES))
    parser.add_argument("--out", type=Path, default=Path("docs/images/unseen_tasks.jpg"))
    parser.add_argument("--size", type=int, default=224, help="side of each picture")
    arguments = parser.parse_args()
    image = sheet({suite: photograph(suite, arguments.size) for suite in arguments.suites}, arguments.size)
    with atomic_write(arguments.out) as file:
        image.save(file, format="JPEG", quality=88)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
