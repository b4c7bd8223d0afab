"""How a verb ends that measures something: the table or JSON on standard output, and a page where asked."""

import json
from pathlib import Path
from typing import Any, Protocol


class Measured(Protocol):
    """Flags that every such verb has."""

    @property
    def out(self) -> Path | None: ...
    @property
    def json(self) -> bool: ...


def finish(bench: Any, config: Measured) -> None:
    """Run `bench` (a module with `run`, `table` and `write`), print what it found, and write the page where asked."""
    result = bench.run(config)
    if config.out is not None:
        bench.write(result, config.out)
    if config.json:
        print(json.dumps(result, indent=2))
    else:
        print(bench.table(result), end="")
