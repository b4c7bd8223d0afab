"""Small charts as inline SVG. Colours and fonts come from the page's style sheet, by class name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line of a chart: `kind` is its CSS class, `dots` marks every point."""

    name: str
    kind: str
    points: Sequence[Point]
    dots: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: int = 760,
    height: int = 300,
    kind: str = "",
) -> str:
    """Lines over a common x, as one SVG with axes, ticks and a legend.

    The y axis starts at zero; where the values span more than a factor of 20 it is logarithmic and says so.

    Args:
        series: at least one point in all; all values finite.
        title: what the chart shows, in words, for those who do not see it.
        kind: CSS class of the SVG.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    log = min(ys) > 0 and max(ys) > 20 * min(ys)
    x_ticks = ticks(min(xs), max(xs), max(2, width // 110))
    y_ticks = log_ticks(min(ys), max(ys)) if log else ticks(min(0.0, *ys), max(ys), 5)
    x0, x1 = min(xs), max(max(xs), min(xs) + 1e-9)
    y0, y1 = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    y1 = y1 if y1 > y0 else y0 + 1.0
    left, right, top, bottom = 62, width - 14, 38, height - 50

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (right - left)

    def py(y: float) -> float:
        share = math.log(y / y0) / math.log(y1 / y0) if log else (y - y0) / (y1 - y0)
        return bottom - share * (bottom - top)

    out = [
        f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    ]
    for value in y_ticks:
        out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{py(value):.1f}" y2="{py(value):.1f}"/>')
        out.append(_text(f"{value:g}", left - 8, py(value) + 4, anchor="end"))
    out.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for value in x_ticks:
        x = px(value)
        out.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        out.append(_text(f"{value:,.10g}", x, bottom + 19))
    label = f"{y_label} (log scale)" if log else y_label
    out.append(_text(x_label, (left + right) / 2, height - 8))
    out.append(f'<g transform="translate(14 {(top + bottom) / 2:.0f}) rotate(-90)">{_text(label, 0, 0)}</g>')
    x = float(left)
    for line in series:
        if not line.points:
            continue
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line.points)
        out.append(f'<polyline class="line {line.kind}" points="{path}"/>')
        marks = line.points if line.dots or len(line.points) == 1 else []
        out += [
            f'<circle class="dot {line.kind}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3"/>' for x, y in marks
        ]
        out.append(f'<line class="line {line.kind}" x1="{x:.0f}" x2="{x + 24:.0f}" y1="15" y2="15"/>')
        if marks:
            out.append(f'<circle class="dot {line.kind}" cx="{x + 12:.0f}" cy="15" r="3"/>')
        out.append(_text(line.name, x + 31, 19, anchor="start", kind="legend"))
        x += 31 + 7.2 * len(line.name) + 24
    return "".join([*out, "</svg>"])


def whisker(rate: float | None, low: float, high: float, *, height: int = 22) -> str:
    """A dot at a rate on its interval, over a scale from 0 to 1 that takes the width it is given."""
    middle = height / 2
    out = [f'<svg class="whisker" width="100%" height="{height}" aria-hidden="true">']
    for share in (0, 25, 50, 75, 100):
        out.append(f'<line class="grid" x1="{share}%" x2="{share}%" y1="0" y2="{height}"/>')
    out.append(
        f'<line class="reach" x1="{100 * low:.2f}%" x2="{100 * high:.2f}%" y1="{middle}" y2="{middle}"/>'
    )
    for bound in (low, high):
        out.append(
            f'<line class="reach" x1="{100 * bound:.2f}%" x2="{100 * bound:.2f}%" y1="{middle - 4}" y2="{middle + 4}"/>'
        )
    if rate is not None:
        out.append(f'<circle class="rate" cx="{100 * rate:.2f}%" cy="{middle}" r="5"/>')
    return "".join([*out, "</svg>"])


def bar(share: float) -> str:
    """A bar that fills `share` (0 to 1) of the width it is given."""
    return (
        '<svg class="bar" width="100%" height="12" aria-hidden="true">'
        f'<rect class="fill" width="{max(0.4, 100 * share):.2f}%" height="12" rx="2"/></svg>'
    )


def _text(words: str, x: float, y: float, *, anchor: str = "middle", kind: str = "") -> str:
    of_class = f'class="{kind}" ' if kind else ""
    return f'<text {of_class}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def thin(points: Sequence[Point], most: int = 300) -> tuple[list[Point], int]:
    """At most `most` points: each the mean of so many neighbours, and that number."""
    group = max(1, math.ceil(len(points) / most))
    if group == 1:
        return list(points), 1
    groups = [points[start : start + group] for start in range(0, len(points), group)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups], group


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (factor * step) <= count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high], low > 0; powers alone where those would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) <= 8:
            break
    return found or [low]
