"""What a report is made of: checked before a page is drawn, so that a page never shows a number that is not one."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from fovea.errors import FoveaError
from fovea.evaluation.statistics import SuccessRate

VIDEO_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}
_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "true or false": (bool,),
    "a whole number": (int,),
    "a finite number": (int, float),
    "a list": (list,),
    "names with values": (dict,),
}


def check_report(data: Any) -> dict[str, Any]:
    """The same report in JSON types only, every known key checked, rates and intervals filled in.

    Args:
        data: see `fovea.evaluation.report.write_report`. Keys that are missing or None are left out; keys that
            are not known are kept as they are.

    Raises:
        FoveaError: names the key, what was expected there and what came.
    """
    if not isinstance(data, Mapping):
        raise FoveaError(f"expected a report as names with values, got {type(data).__name__}")
    report = {key: value for key, value in _plain(data).items() if value is not None}
    _take(report, "title", "text", "")
    for key, kind in (("quick", "true or false"), ("summary", "text"), ("wall_seconds", "a finite number")):
        _take(report, key, kind, "", required=False)
    for key in ("diagnostics", "configuration", "versions"):
        _take(report, key, "names with values", "", required=False)
    for key in ("diagnostics", "versions"):
        for name, value in report.get(key, {}).items():
            if isinstance(value, dict | list):
                raise _wrong(f"{key}.{name}", "text or a number", value)
    if "success" in report:
        report["success"] = _success(_take(report, "success", "names with values", ""), "success")
    for key in ("suites", "tasks"):
        for where, row in _rows(report, key):
            _take(row, "name", "text", where)
            row |= _success(row, where)
    for where, stage in _rows(report, "stages"):
        _take(stage, "name", "text", where)
        if _take(stage, "seconds", "a finite number", where) < 0:
            raise _wrong(f"{where}.seconds", "seconds >= 0", stage["seconds"])
    for where, command in _rows(report, "commands"):
        _take(command, "what", "text", where)
        _take(command, "command", "text", where)
    for where, video in _rows(report, "videos"):
        _video(video, where)
    for index, limit in enumerate(_take(report, "limits", "a list", "", required=False) or []):
        if not isinstance(limit, str):
            raise _wrong(f"limits[{index}]", "text", limit)
    _curve(report)
    return report


def _plain(value: Any) -> Any:
    """JSON types only: numpy numbers become numbers; paths, enums and NaN become their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(member) for member in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return str(value)


def _wrong(where: str, expected: str, got: Any) -> FoveaError:
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return FoveaError(f"report: {where}: expected {expected}, got {shown}")


def _take(record: dict[str, Any], key: str, kind: str, where: str, *, required: bool = True) -> Any:
    """The value of a key, of the right kind; None where an optional one is missing."""
    name = f"{where}.{key}" if where else key
    if record.get(key) is None:
        if required:
            raise _wrong(name, kind, None)
        return None
    value = record[key]
    if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "true or false"):
        raise _wrong(name, kind, value)
    return value


def _rows(report: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """Each record of a list, with what it is called in messages."""
    rows = _take(report, key, "a list", "", required=False) or []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise _wrong(f"{key}[{index}]", "names with values", row)
    return [(f"{key}[{index}]", row) for index, row in enumerate(rows)]


def _success(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Fill in rate and interval, and refuse those that the counts contradict."""
    successes = _take(record, "successes", "a whole number", where)
    episodes = _take(record, "episodes", "a whole number", where)
    if not 0 <= successes <= episodes:
        raise _wrong(f"{where}.successes", f"0 ... {episodes} (the episodes)", successes)
    computed = SuccessRate(successes, episodes).to_dict()
    rate = _take(record, "rate", "a finite number", where, required=False)
    if rate is not None and (computed["rate"] is None or abs(rate - computed["rate"]) > 5e-3):
        raise _wrong(f"{where}.rate", f"{computed['rate']} ({successes} of {episodes})", rate)
    interval = _take(record, "interval", "a list", where, required=False) or computed["interval"]
    numbers = [bound for bound in interval if isinstance(bound, int | float) and not isinstance(bound, bool)]
    if len(interval) != 2 or len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 1:
        raise _wrong(f"{where}.interval", "[low, high] with 0 <= low <= high <= 1", interval)
    expected = computed["interval"]
    if any(abs(a - b) > 5e-3 for a, b in zip(interval, expected, strict=True)):
        raise _wrong(f"{where}.interval", f"Wilson's, {expected} ({successes} of {episodes})", interval)
    return {**record, "rate": computed["rate"] if rate is None else rate, "interval": interval}


def _video(video: dict[str, Any], where: str) -> None:
    _take(video, "caption", "text", where)
    _take(video, "success", "true or false", where, required=False)
    given = [key for key in ("path", "bytes_b64") if _take(video, key, "text", where, required=False)]
    if len(given) != 1:
        raise _wrong(where, "either path or bytes_b64", given)
    mime = _take(video, "mime", "text", where, required=False)
    if mime is not None and mime not in VIDEO_TYPES.values():
        raise _wrong(f"{where}.mime", " or ".join(VIDEO_TYPES.values()), mime)


def _curve(report: dict[str, Any]) -> None:
    curve = _take(report, "curve", "names with values", "", required=False) or {}
    for name in ("train", "validation"):
        points = _take(curve, name, "a list", "curve", required=False) or []
        for index, point in enumerate(points):
            where = f"curve.{name}[{index}]"
            if not isinstance(point, list) or len(point) != 2:
                raise _wrong(where, "[step, loss]", point)
            for value in point:
                if not isinstance(value, int | float) or isinstance(value, bool):
                    raise _wrong(where, "[step, loss], two finite numbers", point)
