"""Who is to blame when a loss or a gradient is not finite: the samples, the inputs or the weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fovea.data.windows import Window
from fovea.errors import FoveaError
from fovea.training.ranks import Ranks

SHOWN = 8  # windows in a message


def not_finite_error(
    what: str,
    value: float,
    step: int,
    *,
    policy: nn.Module,
    batch: dict[str, Any],
    windows: Sequence[Window],
    loss_alone: Callable[[Window], Tensor],
    span: int,
    ranks: Ranks,
    last: Path | None,
) -> FoveaError:
    """The message that names the windows of all processes that alone are not finite, or else all; all must call it.

    Args:
        what: loss or gradient.
        value: what it became.
        step: number of the update, from 0.
        batch: as the policy got it.
        loss_alone: loss of one window.
        span: steps that a window covers, for its description.
        last: the last checkpoint.
    """

    def guilty(window: Window) -> bool:
        loss = loss_alone(window)
        if what == "loss" or not torch.isfinite(loss):
            return not torch.isfinite(loss)
        # not backward(): that would set off the exchange of gradients between processes
        trained = [p for p in policy.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return not all(finite(gradient) for gradient in gradients if gradient is not None)

    columns = {name for name, x in batch.items() if isinstance(x, Tensor) and not finite(x)}
    columns = set(ranks.gather(sorted(columns)))
    names = ranks.gather([window.describe(span) for window in windows if guilty(window)])
    names = names or ranks.gather([window.describe(span) for window in windows])
    if not all(finite(parameter) for parameter in policy.parameters()):
        cause = "the weights themselves are not finite: lower the learning rate"
    elif columns:
        held = ", ".join(sorted(columns))
        cause = f"{held} of the batch holds NaN or infinity: remove that episode or record it again"
    else:
        cause = "the inputs are finite: lower the learning rate, or look at that sample"
    kept = f" The last good state is {last}." if last else ""
    return FoveaError(f"{what} became {value} at step {step + 1}: {'; '.join(names[:SHOWN])}; {cause}.{kept}")


def finite(values: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity."""
    return not values.is_floating_point() or bool(torch.isfinite(values).all())
