"""`fovea experts bench`: how often the scripted expert reaches the goals of a suite."""

import json

from fovea.pipelines import bench_experts
from fovea.pipelines.bench_experts import BenchExpertsConfig as Config


def run(config: Config) -> None:
    """Play, print the table, and put it into the page where asked."""
    result = bench_experts.run(config)
    if config.out is not None:
        bench_experts.write(result, config.out)
    print(
        json.dumps(result, indent=2) if config.json else bench_experts.table(result),
        end="\n" if config.json else "",
    )


__all__ = ["Config", "run"]
