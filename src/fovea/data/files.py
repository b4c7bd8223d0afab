"""Files that are either whole or absent: atomic writes, content hashes, free space."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fovea.errors import FoveaError

_BLOCK = 1 << 22
CHECKSUMS = "checksums.json"


def cache_root() -> Path:
    """$FOVEA_CACHE, or ~/.cache/fovea."""
    return Path(os.environ.get("FOVEA_CACHE") or Path.home() / ".cache" / "fovea")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    A process that is killed inside the block leaves `path` as it was.

    Raises:
        FoveaError: if the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with full_disk_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: str | Path, line: str) -> None:
    """Append a line of text to a file and see it to the disk.

    Raises:
        FoveaError: if the disk is full; half a line may be there then.
    """
    with full_disk_named(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, what: str, then: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, none where there is no file; a last line that a kill cut off is left out.

    Args:
        what: a line holds, for the message.
        then: what happens when a damaged line is deleted, for the message.

    Raises:
        FoveaError: another line is damaged.
    """
    whole = path.read_bytes() if path.exists() else b""
    values = []
    for number, line in enumerate(whole.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            values.append(json.loads(line))
            if not isinstance(values[-1], dict):
                raise ValueError(f"a {type(values[-1]).__name__} in place of an object")
        except ValueError as error:  # of JSON and of UTF-8 too
            raise FoveaError(
                f"{path}, line {number}: expected {what}, it is damaged ({error}); delete that line, {then}"
            ) from error
    return values


def drop_cut_line(path: Path) -> None:
    """What is appended must not join half a line."""
    whole = path.read_bytes() if path.exists() else b""
    if whole and not whole.endswith(b"\n"):
        with atomic_write(path) as file:
            file.write(whole[: whole.rfind(b"\n") + 1])


@contextmanager
def full_disk_named(path: str | Path) -> Iterator[None]:
    """What writes inside fails on a full disk (quota, largest file) with a `FoveaError` that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        reason = "" if error.errno == errno.ENOSPC else f" ({os.strerror(error.errno)})"
        raise FoveaError(
            f"the disk of {Path(path).absolute().parent} is full{reason}; free some space and run the same command "
            "again: what was finished is kept"
        ) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: JSON has none."""
    text = json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def read_json(path: str | Path, what: str = "JSON file") -> Any:
    """Read a JSON file.

    Raises:
        FoveaError: if the file is missing or is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise FoveaError(f"expected the {what} at {path}, found none; check the path or create it again")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FoveaError(f"{path} is not JSON ({error}); delete it and create the {what} again") from error


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the settings that are not the same, sorted; `now` is compared as JSON would keep it."""
    now = json.loads(json.dumps(now, default=str))
    return sorted(name for name in before | now if before.get(name) != now.get(name))


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one: {"policy": {"lr": 1}} -> {"policy.lr": 1}."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return found


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write checksums.json: the SHA-256 of files of a folder (default: of all of them); see `check_checksums`."""
    chosen = sorted(names or (path.name for path in folder.iterdir() if path.is_file()))
    write_json(folder / CHECKSUMS, {name: sha256_file(folder / name) for name in chosen if name != CHECKSUMS})


def check_checksums(folder: Path) -> None:
    """Compare the files of a folder with its checksums.json, where it has one.

    Raises:
        FoveaError: if one is missing, damaged or changed, or checksums.json itself is damaged.
    """
    if not (folder / CHECKSUMS).is_file():
        return
    recorded = read_json(folder / CHECKSUMS, "checksums")
    if not isinstance(recorded, dict):
        raise FoveaError(f"{folder / CHECKSUMS} is damaged: it should map file names to SHA-256; restore it")
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            raise FoveaError(f"{path} is missing, though {CHECKSUMS} beside it lists it; restore the file")
        if (found := sha256_file(path)) != expected:
            raise FoveaError(
                f"{path} is damaged or was changed: its SHA-256 is {found}, recorded was {expected}; restore the "
                f"file or use another checkpoint (after a change that was meant, delete {folder / CHECKSUMS})"
            )


def require_space(folder: str | Path, needed: int, what: str) -> None:
    """Refuse to write `needed` bytes where they would leave less than 1 GB (or 2 %) of the disk free.

    Raises:
        FoveaError: names the size, the free space and the folder.
    """
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    reserve = min(1 << 30, usage.total // 50)
    if needed + reserve > usage.free:
        raise FoveaError(
            f"{what} needs {human_size(needed)}, but {folder} has {human_size(usage.free)} free "
            f"({human_size(reserve)} are kept in reserve); free some space or choose another folder"
        )


def human_size(count: int) -> str:
    """Bytes for people: 1536 -> '1.5 KB'."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


@contextmanager
def locked(
    path: str | Path, *, wait: bool = True, notice: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made if missing); the system frees it when the process dies.

    Args:
        wait: wait for another process that holds it.
        notice: called before waiting.

    Raises:
        FoveaError: with `wait=False`, if another process holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise FoveaError(
                    f"another process is working on {path.parent} right now; wait for it or stop it"
                ) from error
            if notice is not None:
                notice()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
