"""`fovea reproduce focus-vla`: the paper's ladder with what a CPU can train, into results/focus_vla.md."""

from fovea.cli.reproduce_study import run
from fovea.pipelines.focus_vla_study import FocusVLAStudyConfig as Config

__all__ = ["Config", "run"]
