"""How a verb ends that measures something: the table, JSON or page on standard output, and a file where asked."""

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


def show_looks(pipeline: Any, config: Any) -> None:
    """Run `pipeline` (a module with `run` and `table`); print its numbers as JSON, or its table and picture sheets."""
    result = pipeline.run(config)
    if config.json:
        print(json.dumps(result, indent=2))
        return
    print(pipeline.table(result))
    if result["sheets"]:
        print("Sheets:", *result["sheets"], sep="\n  ")


def show_page(study: Any, config: Any) -> None:
    """Run `study` (a module with `run`) to its end, and print the page that it wrote to `config.results`."""
    study.run(config)
    print(config.results.read_text())
    print(f"Written to {config.results}")
