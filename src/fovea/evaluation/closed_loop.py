"""Closed-loop evaluation in LIBERO: many simulate, one process asks the policy for whoever waits.

The list of episodes is made before anything runs, so the same seed gives the same episodes whatever the number of
workers. Finished episodes are lines of a JSONL file: a run that was stopped goes on behind them.
"""

import json
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fovea.data.files import append_line, drop_cut_line, locked, read_lines
from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor
from fovea.evaluation.dispatch import Dispatch
from fovea.evaluation.engines import Engine, LocalEngine
from fovea.evaluation.episodes import episode_id
from fovea.evaluation.film import Films
from fovea.progress import progress_bar
from fovea.sim import EpisodeStart, RenderSettings


def evaluate(
    actor: Actor,
    starts: Sequence[EpisodeStart],
    out: Path,
    *,
    workers: int = 2,
    render: RenderSettings | None = None,
    trained_on: Mapping[str, Any] | None = None,
    films: int | Sequence[int] = (),
    max_steps: int | None = None,
    engine: Engine | None = None,
    label: str = "episodes",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Play every episode, or what is missing of them, and return their records in the order of `starts`.

    Non-obvious: the starts are the same whatever the number of workers, down to the last bit; the outcomes nearly
    so, since sums over a batch of another size may differ in the last bit and contact magnifies that.

    Args:
        actor: the policy.
        starts: how the episodes begin.
        out: folder; gets episodes.jsonl and videos/.
        workers: how many simulate at a time. Two on two cores: the policy runs while they wait.
        render: how pictures are drawn; should be what the policy was trained on.
        trained_on: render settings of the policy's data set (`render` in its meta/fovea.json); warns if different.
        films: which episodes (positions in `starts`) become videos, with heat maps where the policy has some; or one
            number n: the first n successes and n failures, of a task one of each at most.
        max_steps: step limit; default the suite's own.
        engine: where they simulate; default processes of this machine. The caller closes it.

    Returns:
        Records: `id`, `policy`, `start`, `instruction`, `targets`, `success`, `steps`, `max_steps`, `first_lifted`,
        `first_close`, `final` (distances), `seconds` (from reset to end), `wall_seconds` (since the record before, over
        all workers: their sum is how long the evaluation took, interruptions left out), `video` (relative to `out`, or
        None).

    Raises:
        FoveaError: a bad start, an action that is not finite, a worker that dies again and again, or a full disk.
    """
    if workers < 1 or not starts or (max_steps is not None and max_steps < 1):
        raise FoveaError(
            f"expected at least one worker, episode and step, got {workers} workers, {len(starts)} episodes and "
            f"a limit of {max_steps} steps"
        )
    settings = (render or RenderSettings()).asdict()
    warn_if_different(settings, trained_on)
    unlike_usual = {k: v for k, v in settings.items() if v != RenderSettings().asdict()[k]}
    limit = {"max_steps": max_steps} if max_steps else {}
    identity = actor.identity + (
        json.dumps(unlike_usual | limit, sort_keys=True) if unlike_usual | limit else ""
    )
    ids = [episode_id(start, identity) for start in starts]
    if len(set(ids)) != len(ids):
        raise FoveaError(
            "expected every episode once, got the same start several times; change its seed or state"
        )
    path = out / "episodes.jsonl"
    with locked(out / ".lock", wait=False), progress_bar(visible=progress) as bar:
        drop_cut_line(path)
        records = {record["id"]: record for record in read_records(path) if record["id"] in set(ids)}
        todo = deque(number for number, name in enumerate(ids) if name not in records)
        plan = Films(films, records.values())
        dispatch = Dispatch(
            actor,
            starts,
            ids,
            todo,
            out,
            settings,
            max_steps,
            plan,
            engine or LocalEngine(),
            bar.console.print,
        )
        job = bar.add_task(label, total=len(starts), completed=len(records), note=_note(records))
        for record in dispatch.play(workers):
            append_line(path, json.dumps(record, allow_nan=False))
            records[record["id"]] = record
            bar.update(job, advance=1, note=_note(records))
    return [records[name] for name in ids]


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a results file; a last line that was cut off by a kill is left out.

    Raises:
        FoveaError: another line is damaged.
    """
    return read_lines(path, "the record of an episode", "and its episode will be played again")


def warn_if_different(render: Mapping[str, Any], trained_on: Mapping[str, Any] | None) -> None:
    """A policy sees another world when its pictures are drawn otherwise than those it learned from: say so."""
    if trained_on is None:
        return
    keys = [key for key in render if key in trained_on and render[key] != trained_on[key]]
    if keys:
        shown = ", ".join(f"{key} {trained_on[key]} in training, {render[key]} here" for key in keys)
        warnings.warn(
            f"pictures are drawn otherwise than in the training data ({shown}); expect less success",
            stacklevel=3,
        )


def _note(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Successes so far, for the progress bar."""
    won = sum(record["success"] for record in records.values())
    return f"{won}/{len(records)} succeeded, {won / len(records):.0%}" if records else ""
