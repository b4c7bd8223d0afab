"""A run as one self-contained page, and the numbers behind it: report.html, report.json, videos/."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fovea.data.files import atomic_write, read_json, write_json
from fovea.errors import FoveaError
from fovea.evaluation.report_data import VIDEO_TYPES, check_report
from fovea.evaluation.report_page import page

PAGE, RECORD, VIDEOS = "report.html", "report.json", "videos"


def write_report(data: Mapping[str, Any], out_dir: Path, *, base: Path | None = None) -> Path:
    """Write report.html, report.json and videos/ into a folder.

    Args:
        data: what to report; only `title` has to be there, the rest is left out where it is missing:
            title, summary (plain words: what was run), quick (True: the numbers mean nothing, and the page says so);
            success {successes, episodes, rate, interval [low, high]}, tasks and suites [{name, and the same}], where
            rate and interval (Wilson's, 95 %) are computed if missing and refused if they contradict the counts;
            curve {train [[step, loss] ...], validation [[step, loss] ...]};
            videos [{path or bytes_b64, caption, mime, success}], MP4 or WebM;
            stages [{name, seconds}], wall_seconds; diagnostics {name: text or number};
            limits [text]; commands [{what, command}]; configuration {nested}; versions {name: version}.
        out_dir: made if missing. Videos from elsewhere are copied into its videos/.
        base: folder that relative video paths start from; default the current one.

    Returns:
        Path of report.html.

    Raises:
        FoveaError: a key of the wrong type, a rate that its counts contradict, a video that is not there.
    """
    report, out_dir = check_report(data), Path(out_dir)
    kept: dict[str, bytes] = {}
    entries, uris = [], []
    for number, video in enumerate(report.get("videos", ()), start=1):
        name, mime, content = _video(video, number, base or Path())
        while name in kept:
            name = f"{number}-{name}"
        kept[name] = content
        entries.append(
            {"path": f"{VIDEOS}/{name}", "mime": mime} | _without(video, "path", "mime", "bytes_b64")
        )
        uris.append(f"data:{mime};base64,{base64.b64encode(content).decode()}")
    if entries:
        report["videos"] = entries
    html = page(report, uris)
    for name, content in kept.items():
        _keep(content, out_dir / VIDEOS / name)
    write_json(out_dir / RECORD, report)
    with atomic_write(out_dir / PAGE) as file:
        file.write(html.encode())
    return out_dir / PAGE


def rewrite_report(record: Path, out_dir: Path | None = None) -> Path:
    """Write the page again from a report.json (or the folder that holds it), beside it or into another folder.

    Raises:
        FoveaError: if there is no such file, it holds no report, or a video beside it is missing.
    """
    record = Path(record)
    if record.is_dir():
        record = record / RECORD
    data = read_json(record, "report (report.json)")
    return write_report(data, record.parent if out_dir is None else Path(out_dir), base=record.parent)


def _video(video: Mapping[str, Any], number: int, base: Path) -> tuple[str, str, bytes]:
    """File name, MIME type and content of a video."""
    if "path" in video and video["path"] is not None:
        path = base / video["path"]
        mime = video.get("mime") or VIDEO_TYPES.get(path.suffix.lower())
        if mime is None:
            raise FoveaError(
                f"videos[{number - 1}]: expected a file {' or '.join(VIDEO_TYPES)}, got {path.name}"
            )
        if not path.is_file():
            raise FoveaError(
                f"videos[{number - 1}]: expected a video at {path}, found none; leave it out or make it"
            )
        return path.name, mime, path.read_bytes()
    mime = video.get("mime") or "video/mp4"
    suffix = next(suffix for suffix, known in VIDEO_TYPES.items() if known == mime)
    try:
        content = base64.b64decode(video["bytes_b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise FoveaError(
            f"videos[{number - 1}].bytes_b64: expected base64, got something else ({error})"
        ) from error
    return f"episode-{number}{suffix}", mime, content


def _keep(content: bytes, path: Path) -> None:
    if not path.is_file() or path.read_bytes() != content:
        with atomic_write(path) as file:
            file.write(content)


def _without(record: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}
