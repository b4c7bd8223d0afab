"""`fovea reproduce focus-vla`: FocusVLA's ladder (Table 2, Fig. 4, Fig. 7) over the tiny VLM.

All methods learn libero_spatial and libero_object together from the same demonstrations, over the same frozen encoder
and the same small language model, and play official states and layouts drawn anew. The paper's K = 256 of 512 tokens is
half of them; here that is 64 of 128.

The raw features of the shipped encoder hardly tell where a patch is and are a tenth as loud as the states of the
language model, unlike DINOv2's and SigLIP's: the rungs that see them (DS) give them a place and unit variance, and one
more shows what is lost without (docs/focus_vla.md).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fovea.pipelines.ladder import TestSet
from fovea.pipelines.study import StudyConfig
from fovea.pipelines.study_data import drawn_tests, official_tests
from fovea.training.config import TrainConfig

BATCH = 16  # frames an update
TOKENS, HALF = 128, 64  # vision tokens of both cameras, and FocusVLA's share of them
PLAIN: dict[str, Any] = {"gate": "none", "top_k": None, "representation": "vlm"}
FOCUS: dict[str, dict[str, Any]] = {
    "mixed": {**PLAIN, "attention": "mixed"},
    "cascaded": PLAIN,
    "parallel": {**PLAIN, "attention": "parallel"},
    "mixed, 2x2 pooling": {**PLAIN, "attention": "mixed", "pool_vision": True},
    "mixed, gate scalar": {**PLAIN, "attention": "mixed", "gate": "scalar"},
    "+ K = 32": {**PLAIN, "top_k": TOKENS // 4},
    "+ K = 64": {**PLAIN, "top_k": HALF},
    "+ K = 96": {**PLAIN, "top_k": 3 * TOKENS // 4},
    "+ K = 64, gate scalar": {**PLAIN, "top_k": HALF, "gate": "scalar"},
    "+ K = 64, gate head": {**PLAIN, "top_k": HALF, "gate": "head"},
    "+ K = 64, gate element": {**PLAIN, "top_k": HALF, "gate": "element"},
    "+ gate element, representation DS": {"top_k": HALF, "representation": "ds"},
    "FocusVLA": {"top_k": HALF},
    "FocusVLA, features without place": {"top_k": HALF, "feature_positions": "none"},
}
ADAPTER: dict[str, dict[str, Any]] = {
    "VLA-Adapter": {"variant": "base"},
    "VLA-Adapter-Pro": {"variant": "pro"},
}
# Fig. 4: one constraint each on the model without any; with the VLM's states as its vision
CONTROLS = ("mixed, 2x2 pooling", "mixed, gate scalar", "cascaded")
COMPARED = ("VLA-Adapter-Pro", "FocusVLA")  # whose checkpoints on the way play too (Fig. 7)


@dataclass
class FocusVLAStudyConfig(StudyConfig):
    SUITES: ClassVar[tuple[str, ...]] = ("libero_spatial", "libero_object")

    out: Path = Path("outputs/focus-vla")
    results: Path = Path("results/focus_vla.md")
    steps: int = 4200
    episodes: int = 2

    def method_names(self) -> list[str]:
        """Those that the aims are about come first, so that a study that is stopped early can speak to them."""
        first = ["FocusVLA", "VLA-Adapter-Pro", "VLA-Adapter", "mixed", "cascaded"]
        return [*first, *(name for name in FOCUS if name not in first)]

    def policy(self, method: str) -> Any:
        """The VLM is shared: the shipped encoder, four layers, trained with the policy."""
        from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
        from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
        from fovea.vlm.config import VLMConfig

        vlm = VLMConfig.preset("tiny", queries=16, pointing=True)
        if method in ADAPTER:
            return VLAAdapterConfig.preset("tiny", device="cpu", vlm=vlm, **ADAPTER[method])
        return FocusVLAConfig.preset("tiny", device="cpu", vlm=vlm, **FOCUS[method])

    def training(self, method: str) -> TrainConfig:
        return TrainConfig(
            steps=self.steps,
            batch_size=BATCH,
            save_every=max(1, self.steps // 6),
            validate_every=1000,
            validation_windows=256,
        )

    def checkpoints(self) -> list[int]:
        """Steps on the way whose checkpoints play: sixths of the training."""
        every = self.training("FocusVLA").save_every
        return [every * n for n in range(1, 6) if every * n < self.steps]

    def tests(self) -> list[TestSet]:
        """Official states and half as many layouts drawn anew; for the curve, half of the official ones at every
        sixth of the training."""
        return [
            *official_tests(self.suites, self.episodes),
            *drawn_tests(self.suites, self.fewer),
            *(
                TestSet(f"{test.name} after {step}", test.starts, step)
                for step in self.checkpoints()
                for test in official_tests(self.suites, self.fewer)
            ),
        ]

    def tests_of(self, method: str) -> tuple[str, ...]:
        return tuple(test.name for test in self.tests() if test.step is None or method in COMPARED)

    def page(self, outcome: dict[str, Any]) -> str:
        from fovea.pipelines.focus_vla_page import page

        return page(self, outcome)
