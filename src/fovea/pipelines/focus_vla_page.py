"""The page of `fovea reproduce focus-vla`: the ladder, the controls, the curve, and what holds."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fovea.data.files import atomic_write
from fovea.evaluation.statistics import SuccessRate, success_rate
from fovea.pipelines.focus_vla_study import BATCH, COMPARED, CONTROLS
from fovea.pipelines.ladder_compare import compare, loss_and_success
from fovea.pipelines.ladder_tables import (
    NOTHING_CHOSEN,
    cell,
    details,
    ending_of,
    methods,
    opening,
    records,
    success_table,
)

if TYPE_CHECKING:
    from fovea.pipelines.focus_vla_study import FocusVLAStudyConfig

# libero_spatial, libero_object and the average of LIBERO's four suites in %, a policy for each suite: Table 2, and
# Table 1 for VLA-Adapter-Pro
PAPER = {
    "mixed": (94.4, 95.6, 93.6),
    "cascaded": (98.0, 98.6, 97.0),
    "+ K = 32": (96.8, 99.0, 96.3),
    "+ K = 64": (99.0, 99.2, 98.0),
    "+ K = 96": (98.4, 99.6, 97.8),
    "+ K = 64, gate scalar": (98.0, 99.0, 97.3),
    "+ K = 64, gate head": (97.4, 99.6, 97.1),
    "+ K = 64, gate element": (99.6, 99.2, 98.2),
    "+ gate element, representation DS": (99.4, 99.4, 98.4),
    "FocusVLA": (99.6, 100.0, 98.7),
    "VLA-Adapter-Pro": (99.6, 99.6, 98.5),
}
PAPER_TOGETHER = {  # one policy for the four suites (Table 1)
    "FocusVLA": (99.2, 98.4, 97.0),
    "VLA-Adapter-Pro": (98.8, 96.2, 95.6),
}

FIG_4 = [
    "## One constraint each on mixed attention (Fig. 4)",
    "",
    "A quarter of the tokens, one parameter as a gate, or the cascade, over the language model's states; the paper's",
    "other two representations are not varied here.",
    "",
]
AIMS = (("FocusVLA", "VLA-Adapter-Pro"), ("FocusVLA", "VLA-Adapter"))  # suite by suite too
CLAIMS = (  # one against another, as Table 2 and Fig. 4 compare them
    *AIMS,
    ("FocusVLA", "mixed"),
    ("mixed", "VLA-Adapter-Pro"),
    *((control, "mixed") for control in CONTROLS),
    *((f"+ K = {k}", "cascaded") for k in (32, 64, 96)),
    *((f"+ K = 64, gate {gate}", "+ K = 64") for gate in ("scalar", "head", "element")),
    ("+ gate element, representation DS", "+ K = 64, gate element"),
    ("FocusVLA", "+ K = 64, gate element"),
    ("FocusVLA", "FocusVLA, features without place"),
)
FASTER = 2 / 3  # of VLA-Adapter's steps, the aim


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
            _method_of_study(config, outcome["demonstrations"]),
        ),
        "## Table 2",
        "",
        "The paper's numbers, in %: libero_spatial / libero_object (average of LIBERO's four suites), with a",
        "pretrained VLM and a policy for each suite, or one for all four. Ours learns two suites together, from",
        "scratch: compare orders, not distances.",
        "",
        "| | ours: official | ours: drawn | paper: a policy a suite | paper: one for all |",
        "|---|---|---|---|---|",
    ]
    for method in methods(done):
        ours = " | ".join(cell(done, method, tests) for tests in (official, drawn))
        paper = " | ".join(
            "{:.1f} / {:.1f} ({:.1f})".format(*its[method]) if method in its else "-"
            for its in (PAPER, PAPER_TOGETHER)
        )
        lines.append(f"| {method} | {ours} | {paper} |")
    if len(controlled := [method for method in ("mixed", *CONTROLS) if method in methods(done)]) > 1:
        columns = {"ours: official": official, "ours: drawn": drawn}
        lines += ["", *FIG_4, *success_table(done, columns, controlled)]
    lines += details(done, {"official": official, "drawn": drawn})
    if curve := curves(config, done):
        picture = config.results.with_name(f"{config.results.stem}_curve.png")
        draw(curve, picture)
        lines += [
            "",
            "## Success against training steps (Fig. 7)",
            "",
            f"Half of the official episodes, {config.fewer} a task, both suites and all seeds together; bands:",
            "Wilson, 95 %.",
            "",
            f"![success by step]({picture.name})",
            "",
        ]
        lines += _curve_table(config, curve)
    return "\n".join(lines + ending_of(done, findings(config, done), official))


def _method_of_study(config: "FocusVLAStudyConfig", data: dict[str, int]) -> list[str]:
    rate = config.training("FocusVLA").learning_rate
    return [
        f"{' and '.join(config.suites)} together, {data['episodes']} demonstrations",
        f"({data['frames']:,} frames) of the scripted expert: {config.drawn} a task from layouts drawn anew,",
        f"{config.official} from official states 0 to 29. Every method: the same data, the shipped encoder (frozen,",
        "8 x 8 pooled patches of each of two cameras, which also carry how well they match the sentence:",
        "`vlm.pointing`), the same four-layer language model with 16 action queries trained with the policy,",
        f"{config.steps:,} steps of {BATCH} frames, learning rate {rate:g} with a cosine to zero (the papers: 2e-4,",
        "constant), chunks of 8 actions played open loop.",
        NOTHING_CHOSEN.format("steps, learning rate, `vlm.pointing`"),
        f"Official: states 30 and on, {config.episodes} a task; drawn: other",
        f"seeds than training's, {config.fewer} a task.",
        "Intervals: Wilson, 95 %, over the episodes of all seeds together. The paper's VGGT rung needs tokens of a",
        "network that cannot be had offline, and is not in the table. Aims are ours, set before the study.",
    ]


def curves(
    config: "FocusVLAStudyConfig", done: Sequence[dict[str, Any]], suites: Sequence[str] = ()
) -> dict[str, list[tuple[int, Any]]]:
    """method -> [(step, success rate)], of some suites or all; the last step on the same episodes as the others."""
    chosen = tuple(suites or config.suites)
    tests = [test for test in config.tests() if test.name.partition(" after ")[0] in chosen]
    found: dict[str, list[tuple[int, Any]]] = {}
    for method in methods(done):
        points = []
        for step in config.checkpoints():
            its = [r for t in tests if t.step == step for r in records(done, method, t.name)]
            if its:
                points.append((step, success_rate(its)))
        if points:
            found[method] = [*points, (config.steps, _at_the_end(config, done, method, chosen))]
    return found


def _at_the_end(
    config: "FocusVLAStudyConfig", done: Sequence[dict[str, Any]], method: str, suites: Sequence[str]
) -> SuccessRate:
    """How a method ends on the episodes that curves are of."""
    tests = [test for test in config.tests() if test.name.partition(" after ")[0] in suites]
    shared = [vars(start) for test in tests if test.step == config.checkpoints()[0] for start in test.starts]
    ends = [r for test in tests if test.step is None for r in records(done, method, test.name)]
    return success_rate([r for r in ends if r["start"] in shared])


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
    suites = list(config.suites)
    drawn = [f"{suite}, drawn" for suite in suites]
    together = {"official": suites, "drawn": drawn}
    alone = {test: [test] for test in [*suites, *drawn]} if len(suites) > 1 else {}
    said = [
        f"- {one} against {other}, {name}: {compared}"
        for one, other in CLAIMS
        for name, tests in (together | (alone if (one, other) in AIMS else {})).items()
        if (compared := compare(done, one, other, tests))
    ]
    for verdict_of in (convergence, against_base):
        said += [verdict for suite in suites if (verdict := verdict_of(config, done, suite))]
    return said + ([f"- {ranked}"] if (ranked := loss_and_success(done, suites)) else [])


def _of_shared_seeds(done: Sequence[dict[str, Any]], named: Sequence[str]) -> list[dict[str, Any]]:
    """What was trained with the seeds that all of these methods have."""
    shared = set.intersection(*({o["seed"] for o in done if o["method"] == method} for method in named))
    return [o for o in done if o["seed"] in shared]


def _reaching(curve: Sequence[tuple[int, SuccessRate]], rate: float) -> int | None:
    """The first step at which a curve is at a rate; None if it never is."""
    return next((step for step, its in curve if its.rate >= rate), None)


def convergence(config: "FocusVLAStudyConfig", done: Sequence[dict[str, Any]], suite: str) -> str | None:
    """How much sooner FocusVLA is where VLA-Adapter-Pro gets at its best, over the seeds that both have."""
    curve = curves(config, _of_shared_seeds(done, COMPARED), [suite])
    if not set(COMPARED) <= curve.keys():
        return None
    theirs, ours = (curve[method] for method in COMPARED)
    best = max(rate.rate for _, rate in theirs)
    if not best:
        return (
            f"- {suite}: VLA-Adapter-Pro never succeeds on the curve, so nothing can be said about its pace."
        )
    first, reached = (_reaching(its, best) for its in (theirs, ours))
    said = f"- {suite}: VLA-Adapter-Pro's best on the curve, {best:.0%}, comes after {first:,} steps"
    if reached is None or first is None:
        return f"{said}; FocusVLA does not reach it, so the aim (two thirds of the steps) is missed."
    met = "met" if reached / first <= FASTER else "missed"
    return f"{said}, FocusVLA's after {reached:,} ({reached / first:.2f} of them); the aim, two thirds, is {met}."


def against_base(config: "FocusVLAStudyConfig", done: Sequence[dict[str, Any]], suite: str) -> str | None:
    """When FocusVLA is where VLA-Adapter base ends, of which nobody knows when it got there."""
    shared = _of_shared_seeds(done, ("FocusVLA", "VLA-Adapter"))
    curve = curves(config, shared, [suite]).get("FocusVLA")
    if not curve:
        return None
    end = _at_the_end(config, shared, "VLA-Adapter", [suite])
    reached = _reaching(curve, end.rate)
    said = f"- {suite}: VLA-Adapter, which has no curve, ends at {end.rate:.0%} of the same episodes after"
    if reached is None:
        return f"{said} {config.steps:,} steps; FocusVLA does not reach that."
    return f"{said} {config.steps:,} steps; FocusVLA is there after {reached:,} ({reached / config.steps:.2f} of them)."
