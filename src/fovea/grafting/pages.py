"""A study as Markdown, as one HTML page, and as JSON."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fovea.data.files import atomic_write, write_json
from fovea.evaluation.report_page import compose, section
from fovea.grafting.figures import rank_flow, ranked_dots

Rows = list[list[str]]
TABLE = (
    "rank",
    "encoder",
    "MSE",
    "95 %",
    "spread over seeds",
    "behind the best",
    "MSE in robot units",
    "flow loss",
)
VISION = ("encoder", "MSE", "shuffled control", "difference", "verdict")
CONTROLS = ("control", "runs", "MSE", "95 %", "MSE in robot units", "flow loss")
TRANSFER = (
    "suite",
    "small",
    "large",
    "winner on the small",
    "its rank on the large",
    "in the top tier there",
    "tau",
)
TITLE = "Encoder grafting"


def write_pages(
    found: Mapping[str, Any], out: Path, *, markdown: Path | None = None, head: Sequence[str] = ()
) -> Path:
    """Write report.md, report.html, report.json and figures/ into a folder.

    Args:
        found: from `findings.find`.
        markdown: another place for the Markdown page; its figures lie in a folder of its name beside it.
        head: paragraphs before the verdict: what was run and how.

    Returns:
        Path of the HTML page.
    """
    page = markdown or out / "report.md"
    figures = page.with_suffix("") if markdown else out / "figures"
    drawn = _figures(found)
    for name, svg in drawn.items():
        with atomic_write(figures / f"{name}.svg") as file:
            file.write(svg.encode())
    links = {name: f"{figures.name}/{name}.svg" for name in drawn}
    for path, text in (
        (page, to_markdown(found, links, head)),
        (out / "report.html", to_html(found, drawn, head)),
    ):
        with atomic_write(path) as file:
            file.write(text.encode())
    write_json(out / "report.json", dict(found))
    return out / "report.html"


def to_markdown(found: Mapping[str, Any], figures: Mapping[str, str], head: Sequence[str] = ()) -> str:
    """The Markdown page; `figures`: name -> link."""
    lines = [f"# {TITLE}", ""]
    for paragraph in (*head, what_ran(found)):
        lines += [paragraph, ""]
    lines += ["## Verdict", "", found["verdict"], "", found["caveat"], ""]
    for heading, notes, tables, names in _sections(found):
        lines += [f"## {heading}", ""]
        for note in notes:
            lines += [note, ""]
        lines += [line for name in names for line in (f"![{_caption(name)}]({figures[name]})", "")]
        for title, columns, rows in tables:
            lines += ([f"**{title}**", ""] if title else []) + [
                "| " + " | ".join(columns) + " |",
                "|" + "---|" * len(columns),
                *("| " + " | ".join(row) + " |" for row in rows),
                "",
            ]
    return "\n".join(lines)


def to_html(found: Mapping[str, Any], figures: Mapping[str, str], head: Sequence[str] = ()) -> str:
    """The page, complete in itself; `figures`: name -> SVG."""
    sections = [
        section("verdict", "Verdict", f"<p>{escape(found['verdict'])}</p>"),
        section("limits", "What this does not show", f"<p>{escape(found['caveat'])}</p>"),
    ]
    if head:
        sections.append(section("ran", "How it ran", *(f"<p>{_with_code(text)}</p>" for text in head)))
    for number, (heading, notes, tables, names) in enumerate(_sections(found)):
        parts = [f"<p>{escape(note)}</p>" for note in notes]
        parts += [
            f'<figure style="margin-bottom:1.8rem">{figures[name]}'
            f"<figcaption>{_caption(name)}</figcaption></figure>"
            for name in names
        ]
        parts += [_html_table(*table) for table in tables]
        sections.append(section(f"part-{number}", heading, *parts))
    return compose(
        TITLE,
        what_ran(found),
        sections,
        footer="This page is complete in itself. Every number on it is in <code>report.json</code>, beside it.",
    )


def _with_code(text: str) -> str:
    """Escaped, what stands in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def what_ran(found: Mapping[str, Any]) -> str:
    """How much was run on what."""
    sizes = ", ".join(f"{b['name']} ({b['parameters'] / 1e6:.1f} M)" for b in found["backbones"])
    suites = "; ".join(
        f"{name}: {about['train']:,} training samples of {about['train_episodes']} episodes, {about['held_out']} "
        f"held-out samples of {len(about['held_out_episodes'])} others"
        for name, about in found["suites"].items()
    )
    runs = found["runs"]
    return (
        f"{runs['grafts']} grafting runs and {runs['controls']} controls: {len(found['encoders'])} encoders, backbones "
        f"{sizes}, {found['seeds']} seeds. {suites}. Every candidate meets the same samples, noise and times; the "
        "wrapper is adaptive average pooling, LayerNorm and one trained Linear, all else is frozen."
    )


Section = tuple[str, list[str], list[tuple[str, Sequence[str], Rows]], list[str]]


def _sections(found: Mapping[str, Any]) -> list[Section]:
    """Heading, notes, tables (title, columns, rows) and figures, in the order of the page."""
    tables = found["tables"]
    ranked = (
        "MSE: squared error of the sampled chunk against the recorded one, in normalised space, over real steps and "
        "real dimensions. Intervals: bootstrap over episodes (the same for all candidates) and seeds. The near-tie "
        "band of the best (marked =) holds every encoder whose paired difference to it may be zero."
    )
    parts: list[Section] = [
        (
            f"Encoders on {suite}",
            [ranked] if number == 0 else [],
            [(name, TABLE, _rank_rows(own[suite])) for name, own in tables.items()],
            [f"ranks-{suite}"],
        )
        for number, suite in enumerate(found["suites"])
    ]
    if found["comparisons"]:
        parts.append(
            (
                "From the small backbone to the large one",
                [_agreement(found["agreement"])],
                [
                    ("", TRANSFER, [_transfer_row(c) for c in found["comparisons"]]),
                    ("Seed by seed", SEEDS, [row for c in found["comparisons"] for row in _seed_rows(c)]),
                ],
                ["rank-flow"],
            )
        )
    vision = (
        "A graft that is no better than the same graft trained on other samples' pictures does not use vision, "
        "whatever its rank. Both have the seeds that the control has. The difference is the graft's MSE minus its "
        "control's, with its 95 % interval."
    )
    parts.append(("Does it look?", [vision], _each(tables, VISION, _vision_rows), []))
    parts.append(("What the wrapper costs", [], [("", NEUTRALITY, _neutrality_rows(tables))], []))
    parts.append(("Controls", [], _each(tables, CONTROLS, _control_rows), []))
    return parts


SEEDS = ("suite", "small", "large", "seed", "winner on the small", "winner on the large", "same order", "tau")
NEUTRALITY = ("backbone", "suite", "native through the wrapper", "LoRA on native")


def _each(
    tables: Mapping[str, Mapping[str, Any]], columns: Sequence[str], rows: Callable[[Mapping[str, Any]], Rows]
) -> list[tuple[str, Sequence[str], Rows]]:
    return [
        (f"{backbone}, {suite}", columns, rows(table))
        for backbone, suites in tables.items()
        for suite, table in suites.items()
        if rows(table)
    ]


def _rank_rows(table: Mapping[str, Any]) -> Rows:
    return [
        [
            f"{row['rank']}{' =' if row['tied'] else ''}",
            row["encoder"],
            f"{row['mean']:.4g}",
            _range(row["interval"]),
            "-" if row["spread"] is None else f"{row['spread']:.2g}",
            "-" if row["rank"] == 1 else _percent(row["behind"]),
            f"{row['mse_real']:.4g}",
            f"{row['flow']:.4g}",
        ]
        for row in table["rows"]
    ]


def _vision_rows(table: Mapping[str, Any]) -> Rows:
    looks = [(row["encoder"], row["vision"]) for row in table["rows"]]
    if table["native_vision"]:
        looks.append(("native, nothing trained", table["native_vision"]))
    return [
        [
            name,
            f"{vision['mse']:.4g}",
            f"{vision['control_mse']:.4g} ({vision['control']})",
            f"{vision['difference']['value']:+.4g} ({_range(vision['difference'])})",
            "uses vision" if vision["uses"] else "does not use vision",
        ]
        for name, vision in looks
    ]


def _control_rows(table: Mapping[str, Any]) -> Rows:
    rows = [
        [
            control["name"],
            str(control["runs"]),
            f"{control['estimate']['value']:.4g}",
            _range(control["estimate"]),
            f"{control['mse_real']:.4g}",
            f"{control['flow']:.4g}",
        ]
        for control in table["controls"]
    ]
    return [*rows, ["always zero (normalised)", "-", f"{table['zero_action']:.4g}", "-", "-", "-"]]


def _neutrality_rows(tables: Mapping[str, Mapping[str, Any]]) -> Rows:
    return [
        [backbone, suite, *(_percent(table[key]) if table[key] else "-" for key in ("neutrality", "lora"))]
        for backbone, suites in tables.items()
        for suite, table in suites.items()
    ]


def _transfer_row(comparison: Mapping[str, Any]) -> list[str]:
    names = [comparison[key] for key in ("suite", "small", "large", "small_winner")]
    top = "yes" if comparison["transfers"] else f"no: {', '.join(comparison['large_band'])}"
    if comparison["undecided"]:
        top = f"cannot be told: {comparison['undecided']}"
    return [*names, str(comparison["rank_there"]), top, _tau(comparison["tau"])]


def _seed_rows(comparison: Mapping[str, Any]) -> Rows:
    names = [comparison[key] for key in ("suite", "small", "large")]
    return [
        [
            *names,
            str(cell["seed"]),
            cell["small_winner"],
            cell["large_winner"],
            "yes" if cell["same_order"] else "no",
            _tau(cell["tau"]),
        ]
        for cell in comparison["seeds"]
    ]


def _agreement(agreement: Mapping[str, int]) -> str:
    told = (
        "A comparison: is the small one's winner in the near-tie band of the large one's? A cell: is the order of "
        "encoders the same? Kendall's tau: 1 is the same order, -1 the reverse."
    )
    if not agreement["decided"]:
        return f"None of {agreement['comparisons']} comparisons can be decided. {told}"
    moved = agreement["decided"] - agreement["transfers"]
    different = agreement["seed_cells"] - agreement["seed_same_order"]
    return (
        f"{agreement['decided']} of {agreement['comparisons']} comparisons can be decided; {moved} of them and "
        f"{different} of their {agreement['seed_cells']} seed-level cells support rankings that depend on the "
        f"backbone. {told}"
    )


def _figures(found: Mapping[str, Any]) -> dict[str, str]:
    tables = found["tables"]
    drawn = {
        f"ranks-{suite}": ranked_dots(suite, {name: own[suite] for name, own in tables.items()})
        for suite in found["suites"]
    }
    if found["comparisons"]:
        drawn["rank-flow"] = rank_flow(tables, found["encoders"])
    return drawn


def _caption(name: str) -> str:
    if name == "rank-flow":
        return (
            "Rank of every encoder from the smallest backbone to the largest. Full dots: in the near-tie band of the "
            "best; open dots: behind it."
        )
    return (
        f"{name.removeprefix('ranks-')}: mean error (full dot), its 95 % interval, single seeds (rings); shaded: the "
        "near-tie band; dashed: the untouched backbone."
    )


def _html_table(title: str, columns: Sequence[str], rows: Rows) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    caption = f"<p><strong>{escape(title)}</strong></p>" if title else ""
    return f'{caption}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _range(estimate: Mapping[str, float]) -> str:
    return f"{estimate['low']:.4g} to {estimate['high']:.4g}"


def _percent(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:+.1%} ({estimate['low']:+.1%} to {estimate['high']:+.1%})"


def _tau(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
