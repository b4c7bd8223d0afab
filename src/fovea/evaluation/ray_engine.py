"""Simulators as actors of a Ray cluster (`fovea eval --engine ray`, optional extra `ray`).

The policy stays where the evaluation was started; the cluster simulates and draws. Every node needs Fovea with LIBERO.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from fovea.errors import FoveaError
from fovea.evaluation.engines import WorkerDied
from fovea.evaluation.worker import Message, Simulator


class RayWorker:
    """An actor, and the answer that it owes."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.answer = actor.ready.remote()

    def send(self, message: Any) -> None:
        self.answer = self._actor.answer.remote(message)

    def receive(self) -> Message:
        try:
            return self._ray.get(self.answer)
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(f"a simulating actor died ({_reason(error)})") from error

    def stop(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)


class RayEngine:
    """One actor with one CPU for each worker, spread over the nodes; those that find no free CPU wait for one.

    Args:
        address: of the cluster ("HOST:6379", "ray://..."); None takes RAY_ADDRESS, else the cluster that `ray start`
            made here, else starts one on this machine that ends with the evaluation.

    Raises:
        FoveaError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, address: str | None = None) -> None:
        ray, self._ours = connect(address)
        self._ray = ray
        self._actors = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_restarts=0)(Simulator)

    def employ(self, render: dict[str, Any]) -> RayWorker:
        return RayWorker(self._ray, self._actors.remote(render))

    def wait(self, workers: Sequence[RayWorker]) -> list[RayWorker]:
        answers = [worker.answer for worker in workers]
        self._ray.wait(answers)  # the first one; then whoever else is there already, to share a batch
        ready, _ = self._ray.wait(answers, num_returns=len(answers), timeout=0)
        return [worker for worker in workers if worker.answer in ready]

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()


def connect(address: str | None = None) -> tuple[Any, bool]:
    """The module `ray`, connected to a cluster, and whether it was this call that connected.

    Raises:
        FoveaError: Ray is not installed, or no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry unless asked for
    try:
        import ray
    except ModuleNotFoundError as error:
        raise FoveaError(
            "--engine ray needs Ray, which is not installed: `pip install 'lerobot_policy_fovea[ray]'`"
        ) from error
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address=address, include_dashboard=False, configure_logging=False, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise FoveaError(
            f"expected a Ray cluster at {address or os.environ.get('RAY_ADDRESS')}, could not connect ({error}); "
            "start one with `ray start --head`, or leave --ray_address out to use this machine"
        ) from error
    return ray, True


def _reason(error: Exception) -> str:
    """The last line of an error's text: Ray puts a whole story before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
