"""`fovea reproduce ef-vla`: the paper's Table 1 with what a CPU can train.

EF-VLA, LF-VLA and the ablations learn LIBERO's thirty tasks (spatial, object, goal) from the same demonstrations of the
scripted expert, with the same token grid, steps and seeds, and play official states, layouts drawn anew and the unseen
tasks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fovea.pipelines.ladder import TestSet
from fovea.pipelines.study import StudyConfig
from fovea.pipelines.study_data import drawn_tests, official_tests, unseen_tests

if TYPE_CHECKING:
    from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig

SHARED: dict[str, Any] = {"device": "cpu", "value_join": "concat"}
EARLY: dict[str, Any] = {"temperature": 0.035, "text_dropout": 0.2, "value_content_dropout": 0.3}
METHODS: dict[str, dict[str, Any]] = {
    "EF-VLA": EARLY,
    "LF-VLA": {"fusion": "late"},
    "w/o f_e": {**EARLY, "use_proprio": False},
    "w/o f'_l": {**EARLY, "use_text_pooling": False, "text_dropout": 0.0},
}
PAPER = {  # Table 1: training tasks, unseen tasks
    "EF-VLA": ("68", "62"),
    "LF-VLA": ("29", "4"),
    "w/o f_e": ("40", "29"),
    "w/o f'_l": ("57", "53"),
    "w/o CLIP vision": ("1", "11"),
    "finetuned CLIP": ("26", "15"),
}


@dataclass
class EFVLAStudyConfig(StudyConfig):
    SUITES: ClassVar[tuple[str, ...]] = ("libero_spatial", "libero_object", "libero_goal")

    out: Path = Path("outputs/ef-vla")
    results: Path = Path("results/ef_vla.md")

    def method_names(self) -> list[str]:
        return list(METHODS)

    def policy(self, method: str) -> "EFVLAConfig":
        """Sizes, encoder, positions and optimiser are shared."""
        from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig

        return EFVLAConfig.preset("tiny", **SHARED, **METHODS[method])

    def tests(self) -> list[TestSet]:
        """Official states, layouts drawn anew, and twice as many states of each unseen task."""
        return [
            *official_tests(self.SUITES, self.episodes),
            *drawn_tests(self.SUITES, self.episodes),
            *unseen_tests(2 * self.episodes),
        ]

    def page(self, outcome: dict[str, Any]) -> str:
        from fovea.pipelines.ef_vla_page import page

        return page(self, outcome)
