"""Episodes fanned out over a Ray cluster of two nodes, one of which dies."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from test_closed_loop import SMALL, STARTS, Script

from fovea.evaluation.closed_loop import evaluate
from fovea.evaluation.ray_engine import RayEngine, RayWorker

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_log_monitor": False}


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """Two nodes on this machine, one CPU each.

    Ray starts several Python processes a node, and gives them seconds: they need its bytecode on the disk.
    """
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    patiently(lambda: nodes.add_node(**NODE, include_dashboard=False))
    nodes.second = patiently(lambda: nodes.add_node(**NODE))
    yield nodes
    nodes.shutdown()


def patiently(start: Callable[[], Any], tries: int = 3) -> Any:
    """Ray gives a node half a minute to start, whatever else the machine does; on a busy one that may not do."""
    for _ in range(tries - 1):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


class Together(RayEngine):
    """Lets nobody begin before all are there."""

    met = False

    def wait(self, workers: Sequence[RayWorker]) -> list[RayWorker]:
        if not self.met:
            self._ray.get([worker.answer for worker in workers])
            self.met = True
        return super().wait(workers)


@dataclass
class Saboteur(Script):
    """Takes the second node away when it is first asked: both nodes have an episode by then."""

    cluster: Any = None

    def act(self, states: list[dict[str, int]], batch: list[dict[str, Any]]) -> np.ndarray:
        if not self.asked:
            self.cluster.remove_node(self.cluster.second)
        return super().act(states, batch)


def test_a_cluster_plays_the_same_episodes_and_outlives_a_node(cluster, tmp_path, capsys):
    options = {"render": SMALL, "max_steps": 3, "workers": 2, "progress": False}
    with contextlib.closing(Together(cluster.address)) as engine:
        records = evaluate(Saboteur(cluster=cluster), STARTS, tmp_path / "ray", engine=engine, **options)
    assert "another one plays this episode again" in " ".join(capsys.readouterr().err.split())
    assert [record["start"] for record in records] == [start.asdict() for start in STARTS]

    assert all(record["steps"] == record["max_steps"] == 3 for record in records)
    again = Script()
    assert evaluate(again, STARTS, tmp_path / "ray", **options) == records  # any engine goes on with them
    assert again.asked == 0
