"""`fovea report`: the page of a run, written again from its report.json."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Config:
    """Which report, and where the page goes."""

    run: Path  # report.json of a run, or the folder that holds it, e.g. outputs/demo
    out: Path | None = (
        None  # folder for the page, its report.json and videos; where the report is when not given
    )


def run(config: Config) -> None:
    """Write the page and say where it is."""
    from fovea.evaluation.report import rewrite_report

    print(f"Report: {rewrite_report(config.run, config.out)}")
