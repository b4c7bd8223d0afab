"""Metrics of a run: a JSONL file that survives kills, and the learning curve drawn from it."""

import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from fovea.data.files import atomic_write, full_disk_named, read_lines
from fovea.errors import FoveaError


class Means:
    """Running means of named numbers between two reports."""

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._sums.update({name: list(pair) for name, pair in (state or {}).items()})

    def add(self, values: dict[str, float], weight: float = 1.0) -> None:
        for name, value in values.items():
            self._sums[name][0] += value * weight
            self._sums[name][1] += weight

    def take(self) -> dict[str, float]:
        """The means of what had any weight; starts anew."""
        means = {name: total / weight for name, (total, weight) in self._sums.items() if weight}
        self._sums.clear()
        return means

    def state(self) -> dict[str, list[float]]:
        """JSON-able; give it to the constructor to go on."""
        return {name: list(pair) for name, pair in self._sums.items()}


class MetricsFile:
    """metrics.jsonl: one object a report, each with `step`.

    Args:
        path: the file.
        resume_step: keep reports up to this step, drop later ones (of a run that was killed after its checkpoint).
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        kept = [entry for entry in read_metrics(path) if entry["step"] <= resume_step]
        with atomic_write(path) as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in kept).encode())

    def write(self, entry: dict[str, Any]) -> None:
        with full_disk_named(self.path), open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All reports; a half-written last line is left out.

    Raises:
        FoveaError: another line is damaged.
    """
    path = Path(path)
    entries = read_lines(path, "a report of the training", "and its numbers are missing in the curve")
    for number, entry in enumerate(entries, start=1):
        if type(entry.get("step")) is not int:
            raise FoveaError(
                f"{path}, line {number}: expected a report with its step, got {entry}; delete that line"
            )
    return entries


def draw_learning_curve(metrics: str | Path, image: str | Path) -> None:
    """Training and validation loss over steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = read_metrics(metrics)
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label in (("loss", "training"), ("validation_loss", "validation (averaged weights)")):
        points = [(entry["step"], entry[name]) for entry in entries if name in entry]
        if points:
            axes.plot(
                *zip(*points, strict=True), label=label, marker="o" if name != "loss" else None, markersize=3
            )
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter("{x:.2g}")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    with atomic_write(image) as file:
        file.write(buffer.getvalue())
