"""`fovea graft`: which vision encoder suits which VLA backbone, with the controls that keep the answer honest."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fovea.errors import FoveaError
from fovea.grafting.cells import CONTROLS, Plan
from fovea.grafting.settings import Recipe, SampleSettings, ScoreSettings


@dataclass
class Config:
    """Which encoders on which backbones.

    Attributes:
        backbones: from small to large or in any order: names under --trained, folders of checkpoints, released ones
            (smolvla, smolvla-libero, pi05, pi05-libero) or owner/repository.
        encoders: registry names (`tiny`, `efficientnet_lite0`, `dinov2`, `siglip`, `ViT-B-32/openai`, `timm/MODEL`,
            `random/ENCODER`), with @TAP where patches are to be read elsewhere than usual.
        suites: names of data sets under --data, or folders.
        seeds: of every graft, and of the wrapped and LoRA controls.
        controls: among native, wrapped, lora, pooling, zero_image, zero_embedding, shuffled; all of them by default.
        control_seeds: of the other controls.
        pooling: token grids (4 is 4 x 4 a camera) of the pooling control, on the first encoder.
        out: folder of the study; a study that was stopped there goes on.
        data: folder with a data set for every suite.
        trained: folder of backbones that were trained here.
        samples: which moments are trained and scored on.
        recipe: budget of every run.
        score: how held-out samples are scored.
        cache: root of the feature cache; default $FOVEA_CACHE.
        device: for the backbones.
        tokenizer: folder of the backbones' tokenizer, where a checkpoint names one that is not on this machine.
        workers: runs at a time.
        engine: "local" processes, or the CPUs of a "ray" cluster with a shared disk.
        ray_address: of the cluster.
        json: print the numbers as JSON.
    """

    backbones: list[str]
    encoders: list[str]
    suites: list[str] = field(default_factory=lambda: ["libero_spatial", "libero_object"])
    seeds: int = 3
    controls: list[str] = field(default_factory=lambda: list(CONTROLS))
    control_seeds: int = 1
    pooling: list[int] = field(default_factory=lambda: [4, 2])
    out: Path = Path("outputs/graft")
    data: Path = Path("outputs/data")
    trained: Path = Path("outputs/graft/backbones")
    samples: SampleSettings = field(default_factory=SampleSettings)
    recipe: Recipe = field(default_factory=Recipe)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    cache: Path | None = None
    device: str = "cpu"
    tokenizer: str | None = None
    workers: int = 2
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        self.plan()
        if self.workers < 1:
            raise FoveaError(f"--workers: expected at least 1, got {self.workers}")
        if self.ray_address is not None and self.engine != "ray":
            raise FoveaError("--ray_address goes with --engine ray")

    def plan(self) -> Plan:
        """The cells of the study."""
        return Plan(
            self.backbones,
            self.encoders,
            self.suites,
            self.seeds,
            self.control_seeds,
            self.controls,
            self.pooling,
        )


def run(config: Config) -> None:
    """Run what is missing, write the pages, print the verdict."""
    from fovea.grafting.findings import find
    from fovea.grafting.pages import write_pages
    from fovea.grafting.study import StudySettings, run_study
    from fovea.policies.ef_vla.configuration_ef_vla import checked_device

    settings = StudySettings(
        config.out,
        config.data,
        config.trained,
        config.samples,
        config.recipe,
        config.score,
        cache=config.cache,
        device=str(checked_device(config.device)),
        tokenizer=config.tokenizer,
        workers=config.workers,
        engine=config.engine,
        address=config.ray_address,
    )
    found = find(run_study(config.plan(), settings, progress=not config.json))
    page = write_pages(found, config.out)
    if config.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['verdict']}\n\n{found['caveat']}\n\nReport: {page}")
