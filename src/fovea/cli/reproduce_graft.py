"""`fovea reproduce graft`: the grafting diagnostic from nothing, into results/grafting.md."""

from fovea.pipelines import graft_study
from fovea.pipelines.graft_study import GraftStudyConfig as Config


def run(config: Config) -> None:
    """All stages, then the verdict."""
    found = graft_study.run(config)
    print(f"{found['verdict']}\n\n{found['caveat']}\n\nWritten to {config.results}")


__all__ = ["Config", "run"]
