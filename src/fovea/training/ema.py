"""The exponential moving average of a policy's weights, which acts better than the weights themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def check_like(what: str, values: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse saved tensors whose names or shapes are not those of the tensors they are meant for.

    Raises:
        RuntimeError: names the first that differ.
    """
    if different := sorted(values.keys() ^ expected.keys()):
        raise RuntimeError(f"{what}: missing or unknown {', '.join(different[:3])}")
    for name, value in values.items():
        if value.shape != expected[name].shape:
            raise RuntimeError(
                f"{what}: expected {name} of shape {tuple(expected[name].shape)}, got {tuple(value.shape)}"
            )


class WeightAverage:
    """Average of the trainable parameters of `module`; buffers and frozen weights are shared, not averaged."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average towards the present weights by 1 - decay."""
        torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Restore a saved average.

        Raises:
            RuntimeError: it is of other parameters.
        """
        check_like("average", values, self.values)
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
