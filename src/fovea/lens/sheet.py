"""Picture sheets: rows and columns of captioned tiles, with masks outlined and arg-max patches boxed.

Shape letters: H, W camera picture, S side of a tile in pixels, gh x gw patch grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fovea.data.files import atomic_write
from fovea.lens.attention import LayerMaps, goal_masks
from fovea.lens.grounding import patch_cover, score
from fovea.lens.moments import Moment
from fovea.lens.nouns import Noun
from fovea.lens.overlay import AMBER, INK, Colour, Picture, enlarge, overlay
from fovea.lens.word_maps import Maps, noun_map

TEXT: Colour = (228, 230, 234)
OUTLINE: Colour = (120, 220, 255)
ON: Colour = (96, 220, 120)
OFF: Colour = (255, 92, 80)
_ACROSS = 6  # tiles


@dataclass(frozen=True)
class Tile:
    """A square picture with a line or two of text below it; None leaves the place empty."""

    picture: Picture | None
    caption: str = ""


def lit_tile(
    picture: Picture, weights: NDArray, mask: NDArray[np.bool_] | None, side: int, *, box: bool = True
) -> Picture:
    """A camera picture lit where a map looks.

    Args:
        picture: (H, W, 3) uint8.
        weights: (gh, gw) over the patches.
        mask: (H, W) of the object in question, outlined; None draws none.
        side: S.
        box: frame the arg-max patch, green on the object and red elsewhere.

    Returns:
        (S, S, 3) uint8.
    """
    canvas = Image.fromarray(overlay(picture, [(weights, AMBER)], side))
    if mask is not None:
        canvas = Image.fromarray(outlined(np.asarray(canvas), mask))
    if box and mask is not None and mask.any():
        rows, columns = weights.shape
        row, column = divmod(int(weights.argmax()), columns)
        edges = (column * side / columns, row * side / rows)
        corner = ((column + 1) * side / columns - 1, (row + 1) * side / rows - 1)
        colour = ON if score(weights, mask)["hit"] else OFF
        ImageDraw.Draw(canvas).rectangle((*edges, *corner), outline=colour, width=max(2, side // 90))
    return np.asarray(canvas)


def outlined(picture: Picture, mask: NDArray[np.bool_]) -> Picture:
    """A picture (S, S, 3) with the outline of a mask of any size."""
    size = (picture.shape[1], picture.shape[0])
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    inside = np.asarray(large) > 0
    inner = np.pad(inside, 1)
    edge = inside & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])
    return np.where(edge[..., None], np.asarray(OUTLINE, np.uint8), picture)


def sheet(title: str, columns: Sequence[str], rows: Sequence[Sequence[Tile]], side: int = 176) -> Image.Image:
    """Tiles in rows under column headings.

    Args:
        title: above everything.
        columns: headings; long ones are cut.
        rows: tiles, at most as many a row as there are columns.
        side: S.
    """
    gap, line = max(4, side // 32), max(13, side // 10)
    small = ImageFont.load_default(max(10, int(line * 0.72)))
    captions = [[_wrapped(tile.caption, small, side) for tile in tiles] for tiles in rows]
    lines = max((len(caption) for row in captions for caption in row), default=1)
    width = len(columns) * (side + gap) + gap
    cell = side + lines * line + gap
    canvas = Image.new("RGB", (width, 3 * line + len(rows) * cell + gap), INK)
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, line * 0.8), title, fill=TEXT, font=_fitting(title, width - 2 * gap, line), anchor="lm")
    for number, heading in enumerate(columns):
        left = gap + number * (side + gap)
        draw.text((left, 2.2 * line), _cut(heading, small, side), fill=AMBER, font=small, anchor="lm")
    for row, tiles in enumerate(rows):
        top = 3 * line + row * cell
        for number, tile in enumerate(tiles):
            left = gap + number * (side + gap)
            if tile.picture is not None:
                canvas.paste(Image.fromarray(enlarge(tile.picture, side)), (left, top))
            for below, text in enumerate(captions[row][number]):
                height = top + side + line * (below + 0.6)
                draw.text((left, height), text, fill=TEXT, font=small, anchor="lm")
    return canvas


def grounding_sheet(moment: Moment, looks: Sequence[tuple[str, Maps]], side: int = 176) -> Image.Image:
    """A row for every noun in every camera, a column for every variant: what EF-VLA's Fig. 6 shows.

    With few variants the cameras stand side by side.

    Args:
        moment: the scene.
        looks: heading and maps of each variant.
        side: S of each tile.
    """
    cameras = list(dict.fromkeys(camera for _, maps in looks for camera in maps))
    columns = ["scene", *(heading for heading, _ in looks)]
    blocks = [[_noun_row(moment, camera, noun, looks, side) for noun in moment.nouns] for camera in cameras]
    if len(columns) * len(cameras) <= _ACROSS:
        columns *= len(cameras)
        rows = [[tile for row in side_by_side for tile in row] for side_by_side in zip(*blocks, strict=True)]
    else:
        rows = [row for block in blocks for row in block]
    return sheet(moment.instruction, columns, rows, side)


def _noun_row(
    moment: Moment, camera: str, noun: Noun, looks: Sequence[tuple[str, Maps]], side: int
) -> list[Tile]:
    """A noun's objects outlined, then where each variant looks."""
    picture, mask = moment.picture(camera), moment.mask(camera, noun.instances)
    there = f"{mask.mean():.1%}" if mask.any() else "not visible"
    row = [Tile(outlined(enlarge(picture, side), mask), f"{camera}: {noun.phrase}, {there}")]
    for _, maps in looks:
        weights = noun_map(maps[camera], noun.words) if camera in maps else None
        if weights is None:
            row.append(Tile(None, "not read"))
            continue
        caption = ""
        if mask.any():
            said = score(weights, mask)
            caption = f"{'on it' if said['hit'] else 'beside it'}; mass {said['mass']:.0%}"
        row.append(Tile(lit_tile(picture, weights, mask, side), caption))
    return row


def attention_sheet(
    moment: Moment, looks: Sequence[tuple[str, LayerMaps]], layers: int = 4, side: int = 176
) -> Image.Image:
    """Two rows for every policy, one a camera: the mean of all layers, and some of them (FocusVLA, Fig. 2 and 8a).

    Captions say how much of the attention to this camera lies on the task's objects, which are outlined.

    Args:
        moment: the scene.
        looks: heading and maps of each policy.
        layers: how many layers are shown, from the first to the last.
        side: S of each tile.
    """
    rows = []
    for heading, maps in looks:
        count = len(maps.weights)
        chosen = np.unique(np.linspace(0, count - 1, min(layers, count)).round().astype(int))
        pictured = [("mean", maps.weights.mean(0)), *((f"layer {i + 1}", maps.weights[i]) for i in chosen)]
        for index, camera in enumerate(maps.cameras):
            picture, mask = moment.picture(camera), goal_masks(moment, camera)["objects"]
            row = [Tile(outlined(enlarge(picture, side), mask), f"{camera}: {heading}")]
            for name, weights in pictured:
                on = (weights[index] * patch_cover(mask, weights.shape[1:])).sum()
                share = on / max(weights[index].sum(), 1e-12)
                lit = lit_tile(picture, weights[index], mask, side, box=False)
                row.append(Tile(lit, f"{name}: {share:.0%} on objects"))
            rows.append(row)
    width = max(map(len, rows))
    columns = ["scene", "mean of all layers", *["layer by layer", *[""] * width][: width - 2]]
    return sheet(moment.instruction, columns, rows, side)


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a PNG, whole or not at all."""
    with atomic_write(path) as file:
        image.save(file, format="PNG", optimize=True)
    return path


def _fitting(text: str, width: float, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font up to `size` in which a text is at most `width` wide."""
    while size > 9 and ImageFont.load_default(size).getlength(text) > width:
        size -= 1
    return ImageFont.load_default(size)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """A text that is cut where it is wider than `width`."""
    while text and font.getlength(text) > width:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    """A text in one line, or in two, broken between words where it can be; what does not fit into those is cut."""
    words = text.split(" ")
    fits = [n for n in range(1, len(words) + 1) if font.getlength(" ".join(words[:n])) <= width]
    first = fits[-1] if fits else 1
    parts = [" ".join(words[:first]), " ".join(words[first:])]
    return [_cut(part, font, width) for part in parts if part or part is parts[0]]
