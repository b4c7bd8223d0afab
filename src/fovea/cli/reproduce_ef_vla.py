"""`fovea reproduce ef-vla`: the paper's Table 1 with what a CPU can train, into results/ef_vla.md."""

from fovea.cli.reproduce_study import run
from fovea.pipelines.ef_vla_study import EFVLAStudyConfig as Config

__all__ = ["Config", "run"]
