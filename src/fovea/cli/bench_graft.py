"""`fovea bench graft`: what computing an encoder's tokens once saves, beside encoding in every run."""

from fovea.cli.tables import finish
from fovea.pipelines import bench_graft
from fovea.pipelines.bench_graft import BenchGraftConfig as Config


def run(config: Config) -> None:
    """Compare, print, and write the table where asked."""
    finish(bench_graft, config)


__all__ = ["Config", "run"]
