"""Processes that train together, as a launcher starts them."""

import os
import socket
import sys

import torch
from warm_processes import start

from fovea.errors import FoveaError


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def train_together(ranks, target, folder):
    """Call `target(folder)` in every process; returns their exit codes. Messages go to <folder>-<rank>.log."""
    port = free_port()
    processes = [start(_train, target, folder, rank, ranks, port) for rank in range(ranks)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _train(target, folder, rank, ranks, port):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    os.environ.update(zip(names, map(str, (rank, rank, ranks, ranks)), strict=True))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    try:
        target(folder)
    except FoveaError as error:
        folder.with_name(f"{folder.name}-{rank}.log").write_text(str(error))
        sys.exit(2)
