"""`fovea reproduce ef-vla`: the paper's Table 1 with what a CPU can train, into results/ef_vla.md."""

from fovea.pipelines import ef_vla_study
from fovea.pipelines.ef_vla_study import EFVLAStudyConfig as Config


def run(config: Config) -> None:
    """All cells that are missing, then the page."""
    ef_vla_study.run(config)
    print(config.results.read_text())
    print(f"Written to {config.results}")


__all__ = ["Config", "run"]
