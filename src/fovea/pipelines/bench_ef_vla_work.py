"""How much work a control step is, and how fast this machine does such work.

Shape letters: R rows, V width of the picture tower.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fovea.nn.onednn import linear
from fovea.pipelines.bench_ef_vla_measure import SENTENCES, Clock
from fovea.pipelines.bench_ef_vla_reference import ReferenceEFVLA


def flops(model: ReferenceEFVLA) -> dict[str, float]:
    """GFLOP (two for a multiply and add) of the parts of a control step, counted by torch."""
    side, sizes = model.clip.visual.image_size[0], model.sizes
    seen = torch.zeros(sizes.cameras, 3, side, side, dtype=torch.uint8)

    def count(function: Callable[[], object]) -> float:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # torch cannot count what is inside
        try:
            with FlopCounterMode(display=False) as counter:
                function()
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        return counter.get_total_flops() / 1e9

    patches, words = model.patches(seen)[None, None], model.words(SENTENCES[:1])
    state = torch.zeros(1, 1, sizes.state)
    tokens = torch.zeros(1, sizes.context, sizes.width)
    return {
        "pictures": count(lambda: model.patches(seen)),
        "words": count(lambda: model.words(SENTENCES[:1])),
        "policy": count(lambda: (model.tokens(patches, words, state), model.predict(tokens))),
    }


@torch.inference_mode()
def matmul_speed(rows: int, width: int, clock: Clock) -> dict[str, float]:
    """GFLOP/s of a picture tower's largest product, (R, V) x (V, 4V), as torch does it and through oneDNN."""
    x, weight = torch.randn(rows, width), torch.randn(4 * width, width)
    work = 8 * rows * width * width / 1e9
    products: dict[str, Callable[..., object]] = {"torch": torch.nn.functional.linear, "onednn": linear}
    found = {}
    for name, product in products.items():
        times = []
        for _ in range(12):
            began = clock()
            product(x, weight)
            times.append(clock() - began)
        found[name] = work / max(float(np.median(times[2:])), 1e-9)
    return found
