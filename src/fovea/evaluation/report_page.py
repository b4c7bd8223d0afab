"""The report as one HTML page: a section for each part of the data that is there, in the order a reader asks.

Everything is inside the page: styles, charts, videos as data URIs. It has no script, and its security policy
forbids the browser to load anything.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from fovea.evaluation.charts import Series, bar, line_chart, thin, whisker

WHERE_IT_LOOKS = (
    "Above is what each camera saw; below, the same frame keeps its light only where the patches match the words "
    "of the instruction: <span class='amber'>amber</span> for the first thing it names, "
    "<span class='blue'>blue</span> for the last, each map scaled to its own brightest spot."
)
FOOTER = (
    "This page is complete in itself. Every number on it is in <code>report.json</code>, beside it; the videos are in\n"
    "<code>videos/</code>."
)
QUICK = (
    "<strong>Quick run.</strong> It only shows that everything works on this machine. Its numbers mean nothing: "
    "far too little data, training and episodes."
)


def page(report: Mapping[str, Any], videos: Sequence[str]) -> str:
    """The whole page.

    Args:
        report: as `check_report` returns it.
        videos: a data URI for each of report["videos"].
    """
    suites = report.get("suites", ())
    sections = (
        _success(report),
        _rates(suites if len(suites) > 1 else (), "suites", "Suite by suite", "Suite"),
        _rates(report.get("tasks", ()), "tasks", "Task by task", "Task"),
        _videos(report, videos),
        _curve(report),
        _stages(report),
        _diagnostics(report),
        _limits(report),
        _commands(report),
        _details(report),
    )
    return compose(
        report["title"], report.get("summary") or "", sections, banner=QUICK if report.get("quick") else ""
    )


def compose(title: str, lede: str, sections: Sequence[str], *, banner: str = "", footer: str = FOOTER) -> str:
    """A page in the reports' style from finished sections (HTML); empty ones are left out.

    Args:
        title, lede: plain text.
        banner, footer: HTML.
    """
    return Template(_packaged("report.html")).substitute(
        title=escape(title),
        style=_packaged("report.css"),
        banner=f'<p class="banner" role="note">{banner}</p>' if banner else "",
        lede=f'<p class="lede">{escape(lede)}</p>' if lede else "",
        sections="\n".join(part for part in sections if part),
        footer=footer,
    )


def _packaged(name: str) -> str:
    return (files("fovea.evaluation") / "templates" / name).read_text(encoding="utf-8")


def section(name: str, heading: str, *parts: str) -> str:
    """A section with its heading; nothing when it would be empty."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{name}">\n<h2>{escape(heading)}</h2>\n{body}\n</section>' if body else ""


def _success(report: Mapping[str, Any]) -> str:
    success = report.get("success")
    if not success:
        return ""
    low, high = success["interval"]
    heading = "Success (not a result: quick run)" if report.get("quick") else "Success"
    if success["rate"] is None:
        return section("success", heading, "<p>No episode was played.</p>")
    count = f"{success['successes']} of {success['episodes']}"
    return section(
        "success",
        heading,
        f'<div class="headline"><p class="figure">{_percent(success["rate"])}</p>'
        f"<div><p><strong>{count} {_plural(success['episodes'], 'episode')} reached the goal.</strong> "
        f"With 95&nbsp;% confidence the true rate lies between {_percent(low)} and {_percent(high)} "
        "(Wilson interval).</p>"
        f'<div class="scale">{whisker(success["rate"], low, high, height=26)}{_scale()}</div></div></div>',
    )


def _rates(rows: Sequence[Mapping[str, Any]], name: str, title: str, column: str) -> str:
    """A table of success rates with their intervals, as one section."""
    lines = [
        f'<tr><th scope="row">{escape(row["name"])}</th>'
        f'<td class="number">{_percent(row["rate"])} <small>{row["successes"]}/{row["episodes"]}</small></td>'
        f'<td class="range"><div><span>{_interval(row["interval"])}</span>'
        f"{whisker(row['rate'], *row['interval'])}</div></td></tr>"
        for row in rows
    ]
    if not lines:
        return ""
    return section(
        name,
        title,
        f'<table class="tasks"><thead><tr><th scope="col">{column}</th><th scope="col" class="number">Success</th>'
        f'<th scope="col" class="range"><div><span>95&nbsp;% interval</span>{_scale()}</div></th></tr></thead>',
        f"<tbody>{''.join(lines)}</tbody></table>",
    )


def _videos(report: Mapping[str, Any], uris: Sequence[str]) -> str:
    figures = []
    for number, (video, uri) in enumerate(zip(report.get("videos", ()), uris, strict=True), start=1):
        outcome = {
            True: '<span class="outcome good">✓ success</span> ',
            False: '<span class="outcome bad">✗ failure</span> ',
            None: "",
        }[video.get("success")]
        caption = escape(video["caption"])
        figures.append(
            f'<figure><video controls loop muted playsinline preload="auto" aria-label="Video {number}: {caption}" '
            f'src="{uri}"></video><figcaption>{outcome}{caption}</figcaption></figure>'
        )
    if not figures:
        return ""
    films = f'<div class="films">{"".join(figures)}</div>'
    if not any(video.get("maps") for video in report["videos"]):
        return section("videos", "Films", films)
    return section("videos", "Where it looks", f"<p>{WHERE_IT_LOOKS}</p>\n{films}")


def _curve(report: Mapping[str, Any]) -> str:
    curve = report.get("curve", {})
    train, group = thin(curve.get("train") or [])
    validation = [(x, y) for x, y in curve.get("validation") or []]
    said = []
    if train:
        said.append(f"Training loss went from {train[0][1]:.3g} to {train[-1][1]:.3g}.")
    if validation:
        step, lowest = min(validation, key=lambda point: point[1])
        said.append(
            f"Validation loss, on demonstrations that training never saw, ended at {validation[-1][1]:.3g}; "
            f"its lowest was {lowest:.3g} at step {step:,.0f}."
        )
    if not said:
        return ""
    series = [
        Series("training loss", "train", train),
        Series("validation loss", "validation", validation, dots=len(validation) <= 60),
    ]
    title = " ".join(["Learning curve: loss against training step.", *said])
    if group > 1:
        said.append(f"A point of the training line is the mean of {group} logged steps.")
    charts = "".join(
        line_chart(series, title=title, x_label="training step", y_label="loss", width=w, height=h, kind=kind)
        for w, h, kind in ((900, 320, "wide"), (400, 280, "slim"))
    )
    return section(
        "curve", "Learning curve", f"<figure>{charts}<figcaption>{' '.join(said)}</figcaption></figure>"
    )


def _stages(report: Mapping[str, Any]) -> str:
    stages = report.get("stages", ())
    longest = max((stage["seconds"] for stage in stages), default=0.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{escape(stage["name"])}</th><td class="bars">{bar(stage["seconds"] / longest)}</td>'
        f'<td class="number">{_seconds(stage["seconds"])}</td></tr>'
        for stage in stages
    )
    table = (
        '<table class="stages"><thead><tr><th scope="col">Stage</th><th scope="colgroup" colspan="2">Time</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    wall = report.get("wall_seconds")
    total = "" if wall is None else f"<p>From start to report: <strong>{_seconds(wall)}</strong>.</p>"
    return section("time", "Where the time went", table, total)


def _diagnostics(report: Mapping[str, Any]) -> str:
    found = report.get("diagnostics", {})
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{_value(value)}</dd>" for name, value in found.items())
    intro = "<p>What stands behind a failure: going to the wrong object, or finding the right one and losing it.</p>"
    return section("diagnostics", "How it fails and succeeds", f"{intro}<dl>{pairs}</dl>" if pairs else "")


def _limits(report: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{escape(limit)}</li>" for limit in report.get("limits", ()))
    return section("limits", "What this does not show", f"<ul>{items}</ul>" if items else "")


def _commands(report: Mapping[str, Any]) -> str:
    items = "".join(
        f'<li><p>{escape(item["what"])}</p><pre tabindex="0"><code>{escape(item["command"])}</code></pre></li>'
        for item in report.get("commands", ())
    )
    return section("next", "How to go further", f'<ul class="commands">{items}</ul>' if items else "")


def _details(report: Mapping[str, Any]) -> str:
    versions = report.get("versions", {})
    return section(
        "details",
        "To do it again",
        _fold("Configuration", _flat(report.get("configuration", {}))),
        _fold("Versions", list(versions.items())),
    )


def _fold(name: str, rows: Sequence[tuple[str, Any]]) -> str:
    body = "".join(
        f'<tr><th scope="row"><code>{escape(key)}</code></th><td>{_value(value)}</td></tr>'
        for key, value in rows
    )
    return f'<details><summary>{name}</summary><table class="facts">{body}</table></details>' if rows else ""


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested names as dotted ones, in their order."""
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        rows += (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(prefix + key, value)]
        )
    return rows


def _value(value: Any) -> str:
    if value is None or value == {} or value == []:
        return '<span class="none">none</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return escape(", ".join(str(member) for member in value))
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}&nbsp;%"


def _interval(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * low:.0f}&thinsp;–&thinsp;{_percent(high)}"


def _scale() -> str:
    return '<span class="ticks" aria-hidden="true"><i>0</i><i>50</i><i>100&nbsp;%</i></span>'


def _seconds(seconds: float) -> str:
    """Seconds for people: 83.4 -> '1 min 23 s'."""
    if seconds < 60:
        return f"{seconds:.1f}&nbsp;s" if seconds < 10 else f"{seconds:.0f}&nbsp;s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}&nbsp;h {minutes}&nbsp;min" if hours else f"{minutes}&nbsp;min {rest}&nbsp;s"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
