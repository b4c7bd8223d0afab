"""Work for processes that start quickly: no torch."""

import os
import time
from typing import Any

from fovea.errors import FoveaError


def square(job: int) -> dict[str, Any]:
    """-1 is refused, -2 ends the process."""
    if job == -1:
        raise FoveaError("expected a number of at least 0, got -1")
    if job == -2:
        os._exit(9)
    time.sleep(0.3)
    return {"job": job, "square": job * job, "process": os.getpid()}
