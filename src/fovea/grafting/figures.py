"""The two figures of a study as SVG: ranked dots with intervals, and how ranks flow from one backbone to the next.

Each is complete in itself (a Markdown page shows it as a file); inside the report its colours are the page's.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from fovea.evaluation.charts import ticks

STYLE = (
    "<style>"
    ".gf text{font:13px var(--sans,system-ui,sans-serif);fill:var(--ink,#1c1f24)}"
    ".gf .soft{fill:var(--soft,#575c66);font-size:12px}.gf .head{font-weight:600;font-size:14px}"
    ".gf .paper{fill:var(--paper,#fbfaf7)}.gf .band{fill:var(--raised,#efece3)}"
    ".gf .rule{stroke:var(--line,#dcd8ce)}.gf .mark{stroke:var(--amber,#a35a00);stroke-dasharray:5 4}"
    ".gf .reach{stroke:var(--blue,#1d63a8);stroke-width:2}.gf .dot{fill:var(--blue,#1d63a8)}"
    ".gf .seed{fill:none;stroke:var(--blue,#1d63a8);opacity:.65}.gf .amber{fill:var(--amber,#a35a00)}"
    ".gf .open{fill:var(--paper,#fbfaf7);stroke:var(--blue,#1d63a8);stroke-width:2}"
    ".gf .flow{fill:none;stroke-width:2.5}"
    "</style>"
)
COLOURS = ("#1d63a8", "#c77700", "#0b7a5f", "#b23a72", "#6b5bbf", "#7a7f2a", "#a8322b", "#4a7c8c")
LABELS, ROW, HEAD, FOOT = 220, 30, 48, 56


def ranked_dots(suite: str, tables: Mapping[str, Mapping[str, Any]], *, width: int = 860) -> str:
    """One panel for each backbone: encoders from best to worst, mean error, interval, seeds; the near-tie band shaded.

    Args:
        tables: backbone -> its table on this suite (`findings.find`), from small to large.
    """
    parts, y = [], 10.0
    for backbone, table in tables.items():
        panel, height = _dots_panel(backbone, table, y, width)
        parts += panel
        y += height
    parts.append(
        _text("mean squared error of sampled actions, held-out episodes", (LABELS + width) / 2, y + 4, "soft")
    )
    said = f"Encoders ranked on {suite}: " + "; ".join(
        f"{backbone}: " + ", ".join(f"{row['encoder']} {row['mean']:.4g}" for row in table["rows"])
        for backbone, table in tables.items()
    )
    return _svg(parts, width, y + 16, said)


def _dots_panel(backbone: str, table: Mapping[str, Any], top: float, width: int) -> tuple[list[str], float]:
    rows, native = table["rows"], _control(table, "native")
    shown = [
        value for row in rows for value in (row["interval"]["low"], row["interval"]["high"], *row["seeds"])
    ]
    low, high = min(shown), max(shown)
    span = (high - low) or abs(high) or 1.0
    if native is not None and low - 2 * span < native < high + 2 * span:
        low, high = min(low, native), max(high, native)
    margin = 0.06 * ((high - low) or span)
    low, high = low - margin, high + margin
    left, right = float(LABELS), width - 24.0
    first, bottom = top + HEAD, top + HEAD + ROW * len(rows)

    def px(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    tied = sum(bool(row["tied"]) for row in rows)
    out = [
        _text(backbone, 0, top + 18, "head", "start"),
        f'<rect class="band" x="0" y="{first - 2:.1f}" width="{right:.1f}" height="{ROW * tied:.1f}" rx="4"/>',
    ]
    for value in ticks(low, high, 5):
        out.append(_line("rule", px(value), first - 6, px(value), bottom + 4))
        out.append(_text(f"{value:g}", px(value), bottom + 20, "soft"))
    if native is not None and low <= native <= high:
        out.append(_line("mark", px(native), first - 8, px(native), bottom + 4))
        out.append(
            _text(
                f"native, untouched {native:.3g}",
                px(native),
                first - 14,
                "soft",
                _side(px(native), left, right),
            )
        )
    for place, row in enumerate(rows):
        y = first + ROW * (place + 0.5) - 2
        reach = row["interval"]
        blind = "" if row["vision"]["uses"] else " (blind)"
        out.append(_text(f"{row['rank']}  {row['encoder']}{blind}", 8, y + 5, "", "start"))
        out.append(_line("reach", px(reach["low"]), y, px(reach["high"]), y))
        out += [_line("reach", px(reach[end]), y - 4, px(reach[end]), y + 4) for end in ("low", "high")]
        out += [f'<circle class="seed" cx="{px(v):.1f}" cy="{y:.1f}" r="3.5"/>' for v in row["seeds"]]
        out.append(f'<circle class="dot" cx="{px(row["mean"]):.1f}" cy="{y:.1f}" r="5"/>')
    return out, HEAD + ROW * len(rows) + FOOT - 14


def rank_flow(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], encoders: Sequence[str]) -> str:
    """One panel for each suite: the rank of every encoder on each backbone, from small to large.

    Full dots are in the near-tie band of the best, open ones behind it.

    Args:
        tables: backbone -> suite -> table, from small to large.
    """
    backbones = list(tables)
    suites = list(tables[backbones[0]])
    step, label, row = 190, 170, 40
    panel = label + step * (len(backbones) - 1) + label
    width, height = panel * len(suites), 78 + row * len(encoders)
    parts: list[str] = []
    for number, suite in enumerate(suites):
        parts += _flow_panel(suite, tables, encoders, number * panel + label, step, row)
    said = "Rank of every encoder, " + "; ".join(
        f"{suite}, {backbone}: " + ", ".join(r["encoder"] for r in tables[backbone][suite]["rows"])
        for suite in suites
        for backbone in backbones
    )
    return _svg(parts, width, height, said)


def _flow_panel(
    suite: str,
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]],
    encoders: Sequence[str],
    left: float,
    step: float,
    row: float,
) -> list[str]:
    backbones = list(tables)
    centre = left + step * (len(backbones) - 1) / 2
    out = [_text(suite, centre, 18, "head")]
    out += [_text(name, left + step * i, 44, "soft") for i, name in enumerate(backbones)]
    dots: list[str] = []
    for number, encoder in enumerate(encoders):
        colour = COLOURS[number % len(COLOURS)]
        places = []
        for i, backbone in enumerate(backbones):
            own = next(r for r in tables[backbone][suite]["rows"] if r["encoder"] == encoder)
            x, y = left + step * i, 70 + row * (own["rank"] - 1)
            places.append((x, y))
            fill = f'fill="{colour}"' if own["tied"] else 'class="paper"'
            dots.append(
                f'<circle {fill} stroke="{colour}" stroke-width="2.5" cx="{x:.1f}" cy="{y:.1f}" r="7"/>'
            )
        bend = step / 2
        path = f"M{places[0][0]:.1f},{places[0][1]:.1f}" + "".join(
            f" C{a[0] + bend:.1f},{a[1]:.1f} {b[0] - bend:.1f},{b[1]:.1f} {b[0]:.1f},{b[1]:.1f}"
            for a, b in pairwise(places)
        )
        out.append(f'<path class="flow" stroke="{colour}" d="{path}"/>')
        dots.append(_text(encoder, places[0][0] - 16, places[0][1] + 5, "", "end"))
        if len(places) > 1:
            dots.append(_text(encoder, places[-1][0] + 16, places[-1][1] + 5, "", "start"))
    return out + dots


def _control(table: Mapping[str, Any], name: str) -> float | None:
    found = [control["estimate"]["value"] for control in table["controls"] if control["name"] == name]
    return found[0] if found else None


def _side(x: float, left: float, right: float) -> str:
    """Where a label is anchored, so that it stays inside."""
    return "start" if x < left + 70 else "end" if x > right - 70 else "middle"


def _svg(parts: Sequence[str], width: float, height: float, said: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gf" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{width:.0f}px;width:100%;height:auto" role="img" aria-label="{escape(said)}">{STYLE}'
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>{"".join(parts)}</svg>'
    )


def _line(kind: str, x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _text(words: str, x: float, y: float, kind: str = "", anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
