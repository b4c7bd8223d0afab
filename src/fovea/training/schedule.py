"""Learning rate and averaging rate as pure functions of the step: nothing to save, nothing to restore."""

import math


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, final: float = 0.01) -> float:
    """Linear warm-up to `peak`, then a cosine down to `final * peak` at the last step.

    Args:
        step: number of the update, from 0.
        peak: the highest rate.
        warmup: updates until it is reached.
        steps: updates in all.
        final: share of the peak that is left at the end.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def ema_decay(step: int, *, decay: float) -> float:
    """Decay of the weight average after update `step` (from 0): min(decay, (1 + step) / (10 + step)).

    The ramp lets the average forget the random start.
    """
    return min(decay, (1 + step) / (10 + step))
