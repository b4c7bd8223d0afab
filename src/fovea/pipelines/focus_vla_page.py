"""The page of `fovea reproduce focus-vla`: the ladder, the controls, the curve, and what holds."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fovea.data.files import atomic_write
from fovea.evaluation.statistics import success_rate
from fovea.pipelines.ladder_tables import cell, compare, details, ending_of, methods, opening, records

if TYPE_CHECKING:
    from fovea.pipelines.focus_vla_study import FocusVLAStudyConfig

PAPER = {  # Table 2, LIBERO average
    "mixed": "93.6",
    "cascaded": "97.0",
    "+ K = 32": "96.3",
    "+ K = 64": "98.0",
    "+ K = 96": "97.8",
    "+ K = 64, gate scalar": "97.3",
    "+ K = 64, gate head": "97.1",
    "+ K = 64, gate element": "98.2",
    "+ gate element, values of the encoder": "98.4",
    "FocusVLA": "98.7",
}


def page(config: "FocusVLAStudyConfig", outcome: dict[str, Any]) -> str:
    """The whole page in Markdown; draws the curve beside it where there is one."""
    done: Sequence[dict[str, Any]] = outcome["cells"]
    official = list(config.suites)
    drawn = [f"{suite}, drawn" for suite in official]
    lines = [
        *opening(
            "FocusVLA and VLA-Adapter on a CPU: the ladder",
            "focus-vla",
            config,
            done,
            _method_of_study(config, outcome["collected"]),
        ),
        "## Table 2",
        "",
        "| | ours: official | ours: drawn | paper: LIBERO average |",
        "|---|---|---|---|",
    ]
    for method in methods(done):
        ours = " | ".join(cell(done, method, tests) for tests in (official, drawn))
        paper = f"{PAPER[method]} %" if method in PAPER else "-"
        lines.append(f"| {method} | {ours} | {paper} |")
    lines += details(done, {"official": official, "drawn": drawn})
    if curve := curves(config, done):
        picture = config.results.with_name(f"{config.results.stem}_curve.png")
        draw(curve, picture)
        lines += [
            "",
            "## Success against training steps (Fig. 7)",
            "",
            f"![success by step]({picture.name})",
            "",
        ]
        lines += _curve_table(config, curve)
    return "\n".join(lines + ending_of(done, findings(config, done)))


def _method_of_study(config: "FocusVLAStudyConfig", collected: dict[str, Any]) -> list[str]:
    from fovea.pipelines.focus_vla_study import BATCH

    return [
        f"{' and '.join(config.suites)} together, {collected['episodes']} demonstrations",
        f"({collected['frames']:,} frames) of the scripted expert: {config.drawn} a task from layouts drawn anew,",
        f"{config.official} from official states 0 to 29. Every method: the same data, the shipped encoder (frozen,",
        "8 x 8 pooled patches of each of two cameras), the same four-layer language model trained with the policy,",
        f"{config.steps:,} steps of {BATCH} frames, chunks of 8 actions played open loop. The last checkpoint acts;",
        f"nothing was chosen on test episodes. Official: states 30 and on, {config.episodes} a task; drawn: other",
        f"seeds than training's, {config.fewer} a task.",
        "Intervals: Wilson, 95 %, over the episodes of all seeds together. The paper's VGGT rung needs tokens of a",
        "network that cannot be had offline, and is not in the table.",
    ]


def curves(config: "FocusVLAStudyConfig", done: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, Any]]]:
    """method -> [(step, success rate)], the last step on the same episodes as the others."""
    tests = config.tests()
    found: dict[str, list[tuple[int, Any]]] = {}
    for method in methods(done):
        points = []
        for step in config.checkpoints():
            its = [r for t in tests if t.step == step for r in records(done, method, t.name)]
            if its:
                points.append((step, success_rate(its)))
        if points:
            shared = [
                start for t in tests if t.step == config.checkpoints()[0] for start in map(vars, t.starts)
            ]
            last = [
                r
                for t in tests
                if t.step is None
                for r in records(done, method, t.name)
                if r["start"] in shared
            ]
            found[method] = [*points, (config.steps, success_rate(last))]
    return found


def draw(curve: dict[str, list[tuple[int, Any]]], path: Path) -> None:
    """Success against training steps with 95 % bands, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for (method, points), colour in zip(
        curve.items(), ("#1b6ca8", "#c8553d", "#4b8f4b", "#7a5195"), strict=False
    ):
        steps = [step for step, _ in points]
        low, high = zip(*(rate.interval for _, rate in points), strict=True)
        axes.plot(steps, [100 * rate.rate for _, rate in points], "o-", color=colour, label=method)
        axes.fill_between(steps, [100 * x for x in low], [100 * x for x in high], color=colour, alpha=0.15)
    axes.set(xlabel="training steps", ylabel="success, %", ylim=(0, 102))
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    with atomic_write(path) as file:
        file.write(data.getvalue())


def _curve_table(config: "FocusVLAStudyConfig", curve: dict[str, list[tuple[int, Any]]]) -> list[str]:
    steps = [*config.checkpoints(), config.steps]
    lines = ["| step | " + " | ".join(f"{step:,}" for step in steps) + " |", "|---|" + "---|" * len(steps)]
    for method, points in curve.items():
        rates = dict(points)
        shown = (
            f"{rates[s].rate:.0%} ({rates[s].successes}/{rates[s].episodes})" if s in rates else "-"
            for s in steps
        )
        lines.append(f"| {method} | {' | '.join(shown)} |")
    return lines


def findings(config: "FocusVLAStudyConfig", done: Sequence[dict[str, Any]]) -> list[str]:
    """The aims and the paper's claims that the cells can speak to, a sentence each."""
    suites, said = list(config.suites), []
    pairs = (
        ("FocusVLA", "VLA-Adapter-Pro"),
        ("FocusVLA", "VLA-Adapter"),
        ("cascaded", "mixed"),
        ("+ K = 64", "cascaded"),
        ("+ K = 64, gate element", "+ K = 64"),
        ("FocusVLA", "+ K = 64, gate element"),
    )
    for one, other in pairs:
        for test in [*suites, *(f"{suite}, drawn" for suite in suites)]:
            if compared := compare(done, one, other, [test]):
                said.append(f"- {one} against {other}, {test}: {compared}")
    curve = curves(config, done)
    if {"FocusVLA", "VLA-Adapter-Pro"} <= curve.keys():
        best = max(rate.rate for _, rate in curve["VLA-Adapter-Pro"])
        first = next((step for step, rate in curve["VLA-Adapter-Pro"] if rate.rate >= best), None)
        reached = next((step for step, rate in curve["FocusVLA"] if rate.rate >= best), None)
        when = f"after {reached:,} steps" if reached else "at no checkpoint"
        said.append(
            f"- VLA-Adapter-Pro's best on the curve, {best:.0%} after {first:,} steps, is reached by FocusVLA {when}."
        )
    return said
