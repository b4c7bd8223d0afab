"""Several processes that train as one: each computes some rows of the same batch, and together they do what one would.

Three things would tell them from a single process, and are taken care of here: noise (dropout and the like) drawn for a
part of the batch, means over masked targets of which the parts hold different numbers, and an error that only one of
the processes meets.

Shapes: B rows of the whole batch, b rows of this process (b of several processes may differ by one).
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from rich.console import Console

from fovea.training.draws import WholeBatchDraws


def is_main_process() -> bool:
    """Whether this is the process that talks and writes; works before accelerate has started."""
    return os.environ.get("RANK", "0") == "0"


def claim_gpu(device: str | None) -> None:
    """Make the GPU that this process trains on its current one: that of its LOCAL_RANK, or the one that is named."""
    place = torch.device(device or "cpu")
    if place.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", place.index or 0)))


def current_gpu() -> int | None:
    """The number of this process's GPU; None without one. Threads do not inherit it."""
    return torch.cuda.current_device() if torch.cuda.is_available() else None


class Ranks:
    """This process among those that train together.

    Attributes:
        accelerator: of accelerate.
        main: whether this process reports, validates and writes checkpoints.
        count: how many processes there are.
    """

    def __init__(self, *, cpu: bool) -> None:
        # parameters that no loss reaches (the unread end of an encoder) are found once, in the first step
        same_graph = DistributedDataParallelKwargs(static_graph=True)
        # full precision, whatever `accelerate config` says: the recipe and its losses are of that
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[same_graph])
        self.main, self.count = self.accelerator.is_main_process, self.accelerator.num_processes
        self._index = self.accelerator.process_index
        if self.count == 1 and _launched_in_vain():
            Console(stderr=True, soft_wrap=True).print(
                "[yellow]accelerate started one process only: on CPUs it needs MPI for more. "
                "`torchrun --nproc_per_node N -m fovea train ...` starts N.[/yellow]"
            )

    def mine(self, total: int) -> slice:
        """The rows of a batch of B = `total` that this process computes."""
        return slice(self._index, total, self.count)

    def draws(self, total: int) -> AbstractContextManager[Any]:
        """Within the block random numbers are those that one process would draw for the whole batch of B = `total`.

        All processes must have the same seed. In one process nothing is changed.
        """
        if self.count == 1:
            return nullcontext()
        return WholeBatchDraws(total, torch.arange(total)[self.mine(total)])

    def mean(self, numbers: dict[str, float], weight: float) -> tuple[dict[str, float], float]:
        """Means over all processes, weighted: the numbers of the whole batch, and this process's share times `count`.

        The second value scales a loss whose gradients are then averaged over processes.
        """
        if self.count == 1:
            return numbers, 1.0
        names = sorted(numbers)
        own = [weight, *(numbers[name] * weight for name in names)]
        sums = self.accelerator.reduce(
            torch.tensor(own, dtype=torch.float64, device=self.accelerator.device), reduction="sum"
        ).tolist()
        total = sums[0] or 1.0
        means = {name: value / total for name, value in zip(names, sums[1:], strict=True)}
        return means, weight * self.count / total

    def gather(self, items: list[str]) -> list[str]:
        """The items of all processes, joined."""
        return items if self.count == 1 else gather_object(items)

    def wait(self) -> None:
        """Until all are here."""
        self.accelerator.wait_for_everyone()


def _launched_in_vain() -> bool:
    """Whether `accelerate launch --cpu --num_processes N` was asked for several processes and started this one alone.

    It then sets the address of the first process and, without MPI, nothing that tells the processes apart.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return on_cpu and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ
