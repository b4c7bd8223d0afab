"""`fovea bench sim`: our simulator beside stock LIBERO and LeRobot's environment."""

from fovea.cli.tables import finish
from fovea.pipelines import bench_sim
from fovea.pipelines.bench_sim import BenchSimConfig as Config


def run(config: Config) -> None:
    """Compare, print, and write the table where asked."""
    finish(bench_sim, config)


__all__ = ["Config", "run"]
