"""`fovea bench sim`: our simulator beside stock LIBERO and LeRobot's environment."""

import json

from fovea.pipelines import bench_sim
from fovea.pipelines.bench_sim import BenchSimConfig as Config


def run(config: Config) -> None:
    """Compare, print, and write the table where asked."""
    result = bench_sim.run(config)
    if config.out is not None:
        bench_sim.write(result, config.out)
    print(
        json.dumps(result, indent=2) if config.json else bench_sim.table(result),
        end="\n" if config.json else "",
    )


__all__ = ["Config", "run"]
