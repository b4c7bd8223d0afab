"""The paper's Fig. 5 with encoders of our own: success over what a picture costs, for three sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

from fovea.pipelines.ladder_tables import cell, methods

COLUMNS = ("libero_object", "libero_object, drawn", "fovea_unseen")


def picture_work(sizes: Mapping[str, Any]) -> tuple[float, int]:
    """GFLOP a picture (two for a multiply and add, counted by torch) and weights of a `tiny` encoder's picture tower.

    Args:
        sizes: fields of `TinyConfig` that are not as in the encoder that ships.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fovea.encoders.tiny import TinyConfig, TinyEncoder

    with torch.device("meta"):  # shapes alone: nothing is computed
        encoder = TinyEncoder(TinyConfig(**sizes), vocabulary=["bowl"]).eval()
        pixels = torch.empty(1, 3, encoder.image_size, encoder.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.patches(pixels)
    weights = sum(parameter.numel() for parameter in encoder.image.parameters())
    return counter.get_total_flops() / 1e9, weights


def scale(done: Sequence[dict[str, Any]]) -> list[str]:
    """A section of the page; empty until an encoder of another size has acted."""
    from fovea.pipelines.ef_vla_study import ENCODERS

    if not set(ENCODERS) & set(methods(done)):
        return []
    rows = []
    for method, sizes in sorted({"EF-VLA": {}, **ENCODERS}.items(), key=lambda item: picture_work(item[1])):
        work, weights = picture_work(sizes)
        played = " | ".join(cell(done, method, test) for test in COLUMNS)
        rows.append(f"| {method} | {work:.2f} | {weights / 1e6:.2f} | {played} |")
    return [
        "## Success over the size of the encoder",
        "",
        "The paper's Fig. 5 asks this of CLIP ViT-B/32, B/16 and L/14; here three sizes of our own encoder are trained",
        "alike, on the same pictures for as many steps. GFLOP of one picture, millions of weights of its tower.",
        "",
        "| | GFLOP a picture | weights (M) | " + " | ".join(COLUMNS) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
        *rows,
        "",
    ]
