"""`fovea bench focus-vla`: FocusVLA's policy beside VLA-Adapter-Pro's as it was published."""

from fovea.cli.tables import finish
from fovea.pipelines import bench_focus_vla
from fovea.pipelines.bench_focus_vla import BenchFocusVLAConfig as Config


def run(config: Config) -> None:
    """Compare, print, and write the table where asked."""
    finish(bench_focus_vla, config)


__all__ = ["Config", "run"]
