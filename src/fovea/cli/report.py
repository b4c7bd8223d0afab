"""`fovea report`: write a run's page again from its numbers."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Config:
    """Which report."""

    run: Path = Path("outputs/demo")  # folder that holds report.json, or that file
    out: Path | None = None  # another folder for the page, its numbers and videos


def run(config: Config) -> None:
    """Write the page and say where it is."""
    from fovea.evaluation.report import rewrite_report

    print(f"Report: {rewrite_report(config.run, config.out)}")
