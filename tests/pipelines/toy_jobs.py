"""Jobs that processes of a test import."""

import os
from dataclasses import dataclass
from pathlib import Path

from fovea.errors import FoveaError


@dataclass(frozen=True)
class ToyJob:
    label: str
    folder: Path
    fails: bool = False
    dies: bool = False

    def progress(self) -> str:
        return self.label


def work(job: ToyJob) -> None:
    print(f"{job.label} speaks")
    if job.dies:
        os._exit(9)
    if job.fails:
        raise FoveaError("expected flour, got none")
    (job.folder / "done").touch()
