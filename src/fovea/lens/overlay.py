"""Where each word looks, drawn over what the camera saw.

T frames, M words, (gh, gw) patch grid, (H, W) camera picture, S side of a drawn tile in pixels.

Attention is shown as light: a picture turns dim and grey, and comes back bright, in its own colours and under a
tint, where the words look. Every map is scaled to its own maximum, but never to less than `FLOOR` times what a
uniform map would hold, so a map that looks nowhere in particular stays dark instead of being blown up.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fovea.errors import FoveaError

Picture = NDArray[np.uint8]  # (H, W, 3)
Colour = tuple[int, int, int]

AMBER: Colour = (255, 176, 46)
BLUE: Colour = (86, 180, 255)
INK: Colour = (20, 23, 28)  # the ground between the tiles
FLOOR = 8.0

# Words that name no thing; what is left between them are the noun phrases of a LIBERO instruction.
_FUNCTION_WORDS = frozenset(
    "a an and at back between bottom close drawer from front in inside into it its left middle next of on onto open "
    "pick place push put right stack the their to top turn up with".split()
)


def noun_phrases(words: Sequence[str]) -> list[tuple[int, ...]]:
    """Index runs of the words that name things: "pick up the tomato sauce and ..." gives (3, 4) first."""
    runs: list[list[int]] = []
    for index, word in enumerate(words):
        if word in _FUNCTION_WORDS:
            continue
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [tuple(run) for run in runs]


def heat(attention: NDArray, side: int) -> NDArray[np.float32]:
    """A patch map as a smooth picture: (gh, gw) weights >= 0 -> (S, S) in [0, 1].

    Raises:
        FoveaError: if the map is not two-dimensional, or holds NaN or negative weights.
    """
    attention = np.asarray(attention, dtype=np.float32)
    if attention.ndim != 2:
        raise FoveaError(f"expected one attention map (rows, columns), got shape {attention.shape}")
    if not np.isfinite(attention).all() or (attention < 0).any():
        raise FoveaError("expected attention weights >= 0, got NaN, infinite or negative ones")
    top = max(float(attention.max()), FLOOR * float(attention.sum()) / attention.size, 1e-12)
    small = Image.fromarray(attention / top)
    large = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
    return np.clip(large, 0.0, 1.0)


def overlay(picture: Picture, layers: Sequence[tuple[NDArray, Colour]], side: int = 320) -> Picture:
    """A camera picture lit where attention falls.

    Args:
        picture: (H, W, 3) uint8.
        layers: patch maps (gh, gw), each with the colour of its tint; none leaves the picture as it is.
        side: S.

    Returns:
        (S, S, 3) uint8.
    """
    bright = enlarge(picture, side).astype(np.float32)
    if not layers:
        return bright.astype(np.uint8)
    grey = bright.mean(axis=2, keepdims=True)
    heats = [heat(attention, side)[..., None] for attention, _ in layers]
    lit = np.clip(np.max(heats, axis=0) * 1.25, 0.0, 1.0)
    canvas = (0.30 * bright + 0.70 * grey) * 0.42 * (1 - lit) + bright * lit
    for weight, (_, colour) in zip(heats, layers, strict=True):
        tint = 0.42 * weight
        canvas = canvas * (1 - tint) + np.asarray(colour, dtype=np.float32) * tint
    return np.clip(canvas, 0, 255).astype(np.uint8)


def enlarge(picture: Picture, side: int) -> Picture:
    """(H, W, 3) uint8 -> (S, S, 3) uint8, smooth."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise FoveaError(f"expected a picture (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def episode_frames(
    pictures: Mapping[str, NDArray[np.uint8]],
    maps: Mapping[str, NDArray],
    words: Sequence[str],
    *,
    side: int = 320,
    phrases: Sequence[Sequence[int]] | None = None,
) -> Iterator[Picture]:
    """An episode as video frames: cameras above, the same cameras lit by attention below, the words underneath.

    Args:
        pictures: camera -> (T, H, W, 3) uint8; at most three cameras, drawn from left to right.
        maps: camera -> (T, M, gh, gw) attention of each word over the patches.
        words: M words.
        side: S of each tile.
        phrases: groups of word indices, of which the first and the last light up, amber and blue, each as the mean of
            its words; None takes the noun phrases.

    Yields:
        T frames (h, w, 3) uint8 with even h and w, as H.264 wants.
    """
    _check(pictures, maps, words)
    found = list(noun_phrases(words) if phrases is None else phrases)
    tints = list(zip(found[:1] + found[1:][-1:], (AMBER, BLUE), strict=False))
    colours = {index: colour for run, colour in tints for index in run}
    strip = word_strip(words, colours, _width(side, pictures))
    gap, length = _gap(side), len(next(iter(pictures.values())))
    canvas = Image.new("RGB", (_width(side, pictures), 2 * side + 3 * gap + strip.height), INK)
    canvas.paste(strip, (0, 2 * side + 3 * gap))
    for t in range(length):
        for column, camera in enumerate(pictures):
            left = gap + column * (side + gap)
            layers = [(maps[camera][t, list(run)].mean(axis=0), colour) for run, colour in tints if len(run)]
            canvas.paste(Image.fromarray(enlarge(pictures[camera][t], side)), (left, gap))
            canvas.paste(Image.fromarray(overlay(pictures[camera][t], layers, side)), (left, 2 * gap + side))
        yield np.asarray(canvas)


def word_sheet(
    pictures: Mapping[str, Picture], maps: Mapping[str, NDArray], words: Sequence[str], side: int = 128
) -> Picture:
    """One moment, every word: a column for each word, a row for each camera.

    Args:
        pictures: camera -> (H, W, 3) uint8.
        maps: camera -> (M, gh, gw).
        words: M words.
        side: S of each tile.

    Returns:
        (h, w, 3) uint8.
    """
    gap, caption = max(2, side // 32), side // 4
    width, height = len(words) * (side + gap) + gap, len(pictures) * (side + gap) + caption + gap
    canvas = Image.new("RGB", (width, height), INK)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(side // 7)
    for column, word in enumerate(words):
        left = gap + column * (side + gap)
        draw.text((left + side / 2, caption / 2 + gap), word, fill=(235, 235, 235), font=font, anchor="mm")
        for row, camera in enumerate(pictures):
            tile = overlay(pictures[camera], [(maps[camera][column], AMBER)], side)
            canvas.paste(Image.fromarray(tile), (left, caption + gap + row * (side + gap)))
    return np.asarray(canvas)


def word_strip(words: Sequence[str], colours: Mapping[int, Colour], width: int) -> Image.Image:
    """The instruction as one row of words; words with a colour stand out in it, the rest are grey."""
    height = 2 * (width // 22)
    size = width // 26
    while size > 8 and _text_width(words, size) > width - 2 * size:
        size -= 1
    strip, font = Image.new("RGB", (width, height), INK), ImageFont.load_default(size)
    draw, space = ImageDraw.Draw(strip), 0.36 * size
    x, middle = (width - _text_width(words, size)) / 2, height / 2 - size / 6
    for index, word in enumerate(words):
        colour = colours.get(index)
        draw.text((x, middle), word, fill=colour or (148, 154, 164), font=font, anchor="lm")
        end = x + font.getlength(word)
        if colour:
            line = middle + 0.72 * size
            draw.rectangle((x, line, end, line + max(1, size // 10)), fill=colour)
        x = end + space
    return strip


def _text_width(words: Sequence[str], size: int) -> float:
    font = ImageFont.load_default(size)
    return sum(font.getlength(word) for word in words) + 0.36 * size * (len(words) - 1)


def _gap(side: int) -> int:
    return 2 * max(1, side // 64)


def _width(side: int, pictures: Mapping[str, NDArray]) -> int:
    return len(pictures) * (side + _gap(side)) + _gap(side)


def _check(pictures: Mapping[str, NDArray], maps: Mapping[str, NDArray], words: Sequence[str]) -> None:
    if not pictures or set(pictures) != set(maps):
        raise FoveaError(f"expected maps for the cameras {sorted(pictures)}, got them for {sorted(maps)}")
    lengths = {camera: len(frames) for camera, frames in pictures.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise FoveaError(f"expected the same number of frames of every camera, at least one, got {lengths}")
    for camera, frames in pictures.items():
        if maps[camera].shape[:2] != (len(frames), len(words)):
            raise FoveaError(
                f"expected {len(frames)} frames x {len(words)} words of maps for {camera}, "
                f"got {maps[camera].shape[:2]}"
            )
