"""The model card of an encoder: numbers as JSON, the same for people as Markdown."""

from pathlib import Path
from typing import Any

from fovea.data.files import atomic_write, write_json

_TITLES = {
    "nouns": 'noun ("the milk")',
    "colours": 'colour + noun ("the green ketchup")',
    "colours_among_variants": "... with another colour of it in the picture",
    "instructions": "whole instruction (sentence embedding)",
    "words": "every single word of an instruction",
}


def save_card(folder: Path, card: dict[str, Any]) -> None:
    """Write model_card.json and model_card.md into a folder."""
    write_json(folder / "model_card.json", card)
    with atomic_write(folder / "model_card.md") as file:
        file.write(_markdown(card).encode())


def _markdown(card: dict[str, Any]) -> str:
    pointing, zero, held_out = card["pointing"], card["zero_shot"], card["held_out"]
    regions, pictures = zero["regions"], zero["pictures"]
    cameras = [name for name in pointing["nouns"] if name != "all"]
    head = f"""# Model card: `{card["encoder"]}`

Dual encoder of pictures and words: {card["parameters"]:,} parameters, {card["grid"][0]} x {card["grid"][1]} patches of
width {card["width"]}, read at `{card["tap"]}`, temperature {card["temperature"]:.4f}, identity
`{card["identity"][:16]}`.

Measured on {held_out["pictures"]} pictures of {held_out["scenes"]} held-out scenes of the same renderer (corpus of
{card["corpus"]["pictures"]} pictures). A query points at its most similar patch; it is asked where its object fills at
least one patch's worth of pixels and is right if the object covers a quarter of that patch.
"""
    rows = []
    for form, title in _TITLES.items():
        table = pointing[form]
        cells = [f"{table[name]['accuracy']:.3f}" for name in (*cameras, "all")]
        rows.append([title, *cells, str(table["all"]["count"])])
    accuracy = _table(["pointing accuracy", *cameras, "all", "asked"], rows)
    middle = f"""
Zero-shot naming of an object from its patches, among all categories: top-1 {regions["top1"]:.3f}, top-5
{regions["top5"]:.3f} ({regions["count"]} objects). Whole pictures, "is it there?": mean average precision
{pictures["mean_average_precision"]:.3f} over {pictures["names"]} names.

![what sentences see](heat_maps.png)

## Limits

Trained from scratch on renders of LIBERO's objects only, with words tied to patches through the renderer's
segmentation: it knows these objects, their colours and this kind of sentence, nothing else. Unknown words are read
by their letters and may point anywhere. Relations ("left", "next to", "between") do not move the pointing: every
object that the noun is true of is right.

## Objects

Noun / instruction accuracy by camera, number of pictures in brackets.
"""
    rows = [
        [kind, *(_cell(pointing, camera, kind) for camera in cameras)]
        for kind in pointing["nouns"]["all"]["objects"]
    ]
    return "\n".join([head, accuracy, middle, _table(["object", *cameras], rows)])


def _cell(pointing: dict[str, Any], camera: str, kind: str) -> str:
    noun = pointing["nouns"][camera]["objects"].get(kind)
    whole = pointing["instructions"][camera]["objects"].get(kind)
    if not noun or not whole:
        return "-"
    return f"{noun['accuracy']:.2f} / {whole['accuracy']:.2f} ({noun['count']})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
