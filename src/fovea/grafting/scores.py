"""Offline scores of a grafted backbone on held-out episodes: every candidate meets the same samples, noise and times.

Shape letters: B batch, H actions of a chunk, A numbers of a real action, M of a padded one, K draws of (t, noise).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fovea.errors import FoveaError
from fovea.grafting.backbones import Backbone, Inputs
from fovea.grafting.settings import ScoreSettings
from fovea.grafting.training import flow_time

METRICS = ("mse", "mse_real", "flow")


def score(
    backbone: Backbone,
    read: Callable[[np.ndarray], tuple[Inputs, list[Tensor]]],
    count: int,
    settings: ScoreSettings,
) -> dict[str, list[float]]:
    """Scores of `count` held-out samples.

    Args:
        read: inputs and tokens of samples by their numbers (B,).

    Returns:
        For every sample: `mse`, squared error of the sampled chunk in normalised space; `mse_real`, the same in the
        robot's units; `flow`, squared error of the velocity at K fixed (t, noise); `zero_action`, the `mse` of a
        policy that always answers zero in normalised space. All are means over real steps and real dimensions.
    """
    found: dict[str, list[float]] = {name: [] for name in (*METRICS, "zero_action")}
    with torch.no_grad():
        for numbers in _batches(count, settings.batch_size):
            inputs, tokens = read(numbers)
            for name, values in _score_batch(backbone, inputs, tokens, numbers, settings).items():
                found[name] += [round(value, 7) for value in values.tolist()]
    bad = [name for name, values in found.items() if not np.isfinite(values).all()]
    if bad:
        raise FoveaError(f"{backbone.name}: {', '.join(bad)} of some held-out samples is not finite")
    return found


def _score_batch(
    backbone: Backbone, inputs: Inputs, tokens: list[Tensor], numbers: np.ndarray, settings: ScoreSettings
) -> dict[str, Tensor]:
    shape, device = inputs.actions.shape[1:], inputs.actions.device
    draws = [sample_noise(settings.seed, int(number), settings.flow_draws, shape) for number in numbers]
    noise = torch.stack([drawn[0] for drawn in draws]).to(device)
    times = torch.stack([drawn[1] for drawn in draws]).to(device)
    recorded = inputs.actions[..., : inputs.real]
    sampled = backbone.sample(inputs, tokens, noise[:, 0], settings.euler_steps).float()
    real = [backbone.real_units(chunk).float().to(device) for chunk in (sampled, recorded)]
    flows = [
        per_sample(backbone.velocity_loss(inputs, tokens, noise[:, 1 + k], times[:, k]), inputs.is_pad)
        for k in range(settings.flow_draws)
    ]
    return {
        "mse": per_sample((sampled - recorded) ** 2, inputs.is_pad),
        "mse_real": per_sample((real[0] - real[1]) ** 2, inputs.is_pad),
        "flow": torch.stack(flows).mean(0),
        "zero_action": per_sample(recorded**2, inputs.is_pad),
    }


def per_sample(errors: Tensor, is_pad: Tensor) -> Tensor:
    """(B, H, A) -> (B,): mean over steps that are not padding and over real dimensions."""
    steps = ~is_pad
    return (errors.mean(-1) * steps).sum(1) / steps.sum(1).clamp(min=1)


def sample_noise(seed: int, number: int, draws: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Noise (1 + K, H, M) and times (K,) of one sample, whatever batch it comes in.

    The first noise is the sampler's; times are stratified: one in each of K equal parts of their distribution.
    """
    state = np.random.SeedSequence([seed, number]).generate_state(1)[0]
    generator = torch.Generator().manual_seed(int(state))
    noise = torch.randn((1 + draws, *shape), generator=generator)
    uniform = (torch.arange(draws) + torch.rand(draws, generator=generator)) / draws
    return noise, flow_time(uniform)


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation that leaves nobody in place: one cycle through all.

    Raises:
        FoveaError: fewer than two.
    """
    if count < 2:
        raise FoveaError(f"expected at least 2 samples to shuffle pictures among, got {count}")
    order = rng.permutation(count)
    shuffled = np.empty(count, int)
    shuffled[order] = np.roll(order, -1)
    return shuffled


def _batches(count: int, size: int) -> Iterator[np.ndarray]:
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))
