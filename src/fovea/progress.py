"""The progress bar of every long job: what, how far, how fast, how much longer."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(*, visible: bool = True) -> Progress:
    """A `rich` progress display; `task.fields["note"]` (pass `note=""` to `add_task`) is shown at the end.

    It goes to standard error: what a command prints can be piped.
    """
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not visible,
    )
