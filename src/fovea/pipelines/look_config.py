"""What `fovea ground` and `fovea attend` are asked; light, so that their flags are listed at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fovea.errors import FoveaError
from fovea.sim.catalogue import CATALOGUE
from fovea.sim.layout import Layout
from fovea.sim.suites import suggest


@dataclass(frozen=True, kw_only=True)
class LookConfig:
    """At which scenes somebody looks.

    Attributes:
        suite: LIBERO suites, one or several.
        layout: "official" initial states (those that fovea collect leaves alone); "drawn": object positions drawn
            anew; or "spread": objects on the table anywhere among each other.
        scenes: scenes a task.
        moments: moments of a scene: the first, and more while the scripted expert plays, a second apart.
        seed: draws layouts and fixture poses.
        sheets: how many scenes become a picture sheet.
        json: print the numbers as JSON.
    """

    LEAST: ClassVar[dict[str, int]] = {"scenes": 1, "moments": 1, "seed": 0, "sheets": 0}

    suite: list[str] = field(default_factory=lambda: ["libero_object"])
    layout: Layout = "official"
    scenes: int = 5
    moments: int = 1
    seed: int = 0
    sheets: int = 3
    json: bool = False

    def __post_init__(self) -> None:
        for name, least in self.LEAST.items():
            if getattr(self, name) < least:
                raise FoveaError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if not self.suite:
            raise FoveaError("suite: expected at least one, got none")
        for name in ("suite", "tasks", "task"):
            values = getattr(self, name, [])
            if len(set(values)) != len(values):
                raise FoveaError(f"{name}: expected each once (a scene counts once), got {values}")


@dataclass(frozen=True, kw_only=True)
class GroundConfig(LookConfig):
    """What looks, and at which scenes; see `LookConfig` for what is not listed.

    Attributes:
        encoders: encoder names: tiny, tiny:<folder>, ViT-B-32/openai; default tiny if there is no checkpoint either.
        taps: where the encoders' patches are read: attn_qk, attn_qq, out; empty takes all.
        checkpoints: EF-VLA checkpoints; they look through their own encoder, tap and learned temperature.
        tasks: task numbers, of every suite; empty takes all.
        data: data set that the policies were trained on: objects that its instructions name are "seen".
        holdout: object types that count as unseen, all others as seen; instead of --data.
        out: folder of answers, sheets and ground.json; a run that was stopped there goes on.
    """

    encoders: list[str] = field(default_factory=list)
    taps: list[str] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    data: Path | None = None
    holdout: list[str] = field(default_factory=list)
    out: Path = Path("outputs/ground")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is not None and self.holdout:
            raise FoveaError("data and holdout: both say which objects are unseen; give one of them")
        for kind in self.holdout:
            if kind not in CATALOGUE:
                raise FoveaError(f"holdout: no object type {kind!r}. {suggest(kind, CATALOGUE)}")


@dataclass(frozen=True, kw_only=True)
class AttendConfig(LookConfig):
    """Which policies, and which scenes they look at; see `LookConfig` for what is not listed.

    Attributes:
        checkpoint: of ef_vla, vla_adapter or focus_vla.
        against: more checkpoints, each compared with the first on the same moments: mixed attention against cascaded,
            top-K against none.
        task: task numbers, of every suite; empty takes all.
        layers: layers that a sheet shows, besides the mean over all.
        out: folder of shares, sheets and attend.json; a run that was stopped there goes on.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("checkpoint",)
    LEAST: ClassVar[dict[str, int]] = {**LookConfig.LEAST, "layers": 0}

    checkpoint: Path
    against: list[Path] = field(default_factory=list)
    task: list[int] = field(default_factory=list)
    layers: int = 4
    out: Path = Path("outputs/attend")

    def __post_init__(self) -> None:
        super().__post_init__()
        everyone = [self.checkpoint, *self.against]
        if len(set(everyone)) != len(everyone):
            raise FoveaError(f"against: expected other checkpoints than {self.checkpoint}, each once")
