"""Named stages of a study, with the time that each one took over all runs of it."""

import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from fovea.data.files import differing, flat, write_json
from fovea.errors import FoveaError


def typed_flags(config: Any, usual: Any, free: Sequence[str]) -> str:
    """The flags in which a configuration is not as usual, as a shell takes them: " --steps 50 --recipe.steps 20".

    Args:
        usual: the same with its defaults.
        free: fields that are left out.
    """
    was, now = (flat(json.loads(json.dumps(asdict(its), default=str))) for its in (usual, config))
    values = {name: value for name, value in now.items() if name not in free and value != was.get(name)}
    return "".join(f" --{name} {shlex.quote(json.dumps(value))}" for name, value in values.items())


class Stages:
    """Keeps the seconds of every stage in a file, so that a study that was stopped still reports its whole time.

    Args:
        folder: of the study.
        settings: what decides the study's outcome; a folder that holds another study is refused.

    Raises:
        FoveaError: if the folder holds a study with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self._path = folder, folder / "stages.json"
        self._console = Console(stderr=True)
        folder.mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(settings, default=str))
        self._record: dict[str, Any] = {"settings": settings, "seconds": {}, "finished": []}
        if self._path.exists():
            self._record = json.loads(self._path.read_text())
            if different := differing(self._record["settings"], settings):
                raise FoveaError(
                    f"{folder} holds a run with other settings (different: {', '.join(different)}); choose another "
                    "--out or delete the folder"
                )

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Run one stage: says what it does and adds its seconds, interrupted or not.

        A stage that had finished already only looks whether all is there; that costs the study no time.
        """
        self._console.print(f"[bold]{name}[/bold]  {what}")
        if name in self._record["finished"]:
            yield
            return
        began = time.monotonic()
        try:
            yield
            self._record["finished"].append(name)
        finally:
            seconds = self._record["seconds"]
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
            write_json(self._path, self._record)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, in the order in which they first ran."""
        return dict(self._record["seconds"])


def current_commit() -> str:
    """Short hash of the checked-out commit of this library, "unknown" where it is not in a repository of its own
    (installed, perhaps below somebody else's): results name it."""
    return (_git("ls-files", Path(__file__).name) and _git("rev-parse", "--short", "HEAD")) or "unknown"


def _git(*command: str) -> str:
    """What git says of this library's folder; nothing where it cannot."""
    try:
        out = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *command], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return out.stdout.strip()
