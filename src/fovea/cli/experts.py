"""`fovea experts bench`: how often the scripted expert reaches the goals of a suite."""

from fovea.cli.tables import finish
from fovea.pipelines import bench_experts
from fovea.pipelines.bench_experts import BenchExpertsConfig as Config


def run(config: Config) -> None:
    """Play, print the table, and put it into the page where asked."""
    finish(bench_experts, config)


__all__ = ["Config", "run"]
