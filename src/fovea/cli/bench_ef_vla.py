"""`fovea bench ef-vla`: EF-VLA beside its published form and LeRobot's ACT, training and acting."""

from fovea.cli.tables import finish
from fovea.pipelines import bench_ef_vla
from fovea.pipelines.bench_ef_vla import BenchEFVLAConfig as Config


def run(config: Config) -> None:
    """Compare, print, and write the table where asked."""
    finish(bench_ef_vla, config)


__all__ = ["Config", "run"]
