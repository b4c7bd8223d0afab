"""What was measured at scenes, kept line by line, so that a study of scenes goes on where it was stopped."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fovea.data.files import append_line, drop_cut_line, read_lines
from fovea.sim.layout import EpisodeStart


class SceneRecords:
    """Measurements by who was measured and at which scene, one JSON line each in a file.

    Args:
        path: the file.
        rules: what measurements depend on besides; those under other rules are left alone and not used.
    """

    def __init__(self, path: Path, rules: Sequence[int]) -> None:
        self.path, self.rules = path, list(rules)
        self._known: dict[str, Any] = {}
        drop_cut_line(path)
        for record in read_lines(path, "what was found at a scene", "and the scene is looked at again"):
            self._known[record["key"]] = record["found"]

    def missing(
        self, starts: Sequence[EpisodeStart], identities: Sequence[str], sheets: Mapping[EpisodeStart, Path]
    ) -> list[EpisodeStart]:
        """The scenes at which somebody was not measured, or whose picture sheet is not there."""
        return [
            start
            for start in starts
            if any(self._key(identity, start) not in self._known for identity in identities)
            or (start in sheets and not sheets[start].exists())
        ]

    def add(self, identity: str, start: EpisodeStart, found: Any, **who: str) -> None:
        """Keep what was found; a second finding does not replace the first."""
        key = self._key(identity, start)
        if key not in self._known:
            line = json.dumps({"key": key, **who, "start": asdict(start), "found": found})
            self._known[key] = json.loads(line)["found"]  # as another run will read it
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, line)

    def of(self, identity: str, start: EpisodeStart) -> Any:
        """What was found."""
        return self._known[self._key(identity, start)]

    def _key(self, identity: str, start: EpisodeStart) -> str:
        return _digest(identity, asdict(start), self.rules)


def sheet_paths(
    folder: Path, starts: Sequence[EpisodeStart], count: int, shows: Sequence[str]
) -> dict[EpisodeStart, Path]:
    """Which scenes become picture sheets, as different tasks as possible, and the files' names.

    Args:
        shows: what the sheets depend on besides the scene; it decides their names.
    """
    turns: dict[tuple[str, int], int] = {}
    order = []
    for number, start in enumerate(starts):
        task = (start.suite, start.task_id)
        order.append((turns.setdefault(task, 0), number))
        turns[task] += 1
    chosen = [starts[number] for _, number in sorted(order)[:count]]
    return {
        start: folder / f"{_place(start)}-{_digest(list(shows), asdict(start))[:8]}.png" for start in chosen
    }


def _place(start: EpisodeStart) -> str:
    layout = f"state{start.init_state}" if start.layout == "official" else f"{start.layout}{start.seed}"
    return f"{start.suite}-{start.task_id}-{layout}"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
