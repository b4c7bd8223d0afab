"""Noise of a part of a batch that is the same part of the whole batch's noise, for processes that train together.

Shapes: B rows of the whole batch, b rows of this process.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_IN_PLACE = {
    "normal_",
    "uniform_",
    "bernoulli_",
    "exponential_",
    "random_",
    "geometric_",
    "cauchy_",
    "log_normal_",
}
_NEW = {"rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"}
_INSIDE = {
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "gumbel_softmax",
    "rrelu",
    "lstm",
    "gru",
}
_DRAWING = _IN_PLACE | _NEW | _INSIDE


class WholeBatchDraws(TorchFunctionMode):
    """Within the block random tensors whose first axis is made of b rows are drawn for all B rows and cut.

    All processes must have the same seed, and draw in the same order.

    Non-obvious: a random tensor whose first axis is a multiple of b, but no batch, is taken for one; dropout inside
    fused attention kernels of a GPU is out of reach and stays each process's own. Only calls that draw are looked into:
    looking into every operation would cost as much time as a small policy's step.

    Args:
        total: B.
        rows: numbers of this process's rows (b,).
    """

    def __init__(self, total: int, rows: Tensor) -> None:
        super().__init__()
        self._cut = _Cut(total, rows)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name not in _DRAWING and "dropout" not in name:
            return func(*args, **(kwargs or {}))
        with self._cut:
            return func(*args, **(kwargs or {}))


class _Cut(TorchDispatchMode):
    """Draws for the whole batch wherever an operation draws."""

    def __init__(self, total: int, rows: Tensor) -> None:
        super().__init__()
        self.total, self.rows = total, rows

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            return self._dropout(func, *args, **kwargs)
        if any(isinstance(value, Tensor) for value in args[1:]):  # parameters that vary over the rows
            return func(*args, **kwargs)
        if (name.endswith("_like") or func is torch.ops.aten.bernoulli.p) and self._whole(args[0].shape):
            example = args[0].new_empty(self._whole(args[0].shape))
            return self._own(func(example, *args[1:], **kwargs))
        if name.endswith("_") and isinstance(args[0], Tensor) and self._whole(args[0].shape):
            whole = args[0].new_empty(self._whole(args[0].shape))
            return args[0].copy_(self._own(func(whole, *args[1:], **kwargs)))
        place = next((i for i, value in enumerate(args) if isinstance(value, list | tuple)), None)
        if place is not None and self._whole(args[place]):
            sized = (*args[:place], self._whole(args[place]), *args[place + 1 :])
            return self._own(func(*sized, **kwargs))
        return func(*args, **kwargs)

    def _dropout(self, func: Callable[..., Any], x: Tensor, p: float, train: bool | None) -> Any:
        whole = self._whole(x.shape)
        if not whole or not train:
            return func(x, p, train)
        kept = self._own(func(x.new_ones(whole), p, train)[1])
        return x * kept / (1 - p), kept

    def _whole(self, shape: Any) -> list[int]:
        """Shape for the whole batch; empty if the first axis is not made of this process's rows."""
        size = [int(n) for n in shape]
        if not size or not size[0] or not len(self.rows) or size[0] % len(self.rows):
            return []
        return [size[0] // len(self.rows) * self.total, *size[1:]]

    def _own(self, whole: Tensor) -> Tensor:
        parts = whole.unflatten(0, (self.total, -1))
        return parts[self.rows.to(whole.device)].flatten(0, 1)
