"""One cell of a grafting study: a backbone, a suite, a candidate, a seed; and the list of all cells."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fovea.errors import FoveaError

Kind = Literal["graft", "native", "wrapped", "lora"]
Vision = Literal["pictures", "shuffled", "zero_image", "zero_embedding"]
CONTROLS = ("native", "wrapped", "lora", "pooling", "zero_image", "zero_embedding", "shuffled")


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        backbone, suite: names.
        kind: `graft` (an encoder through the wrapper), `native` (untouched, nothing is trained), `wrapped` (the native
            tower through the wrapper: what the wrapper costs), `lora` (native tokens, LoRA on the language model and
            the action expert).
        encoder: name of the candidate; None for the native vision.
        seed: of projector, batches and noise.
        side: tokens of a camera are side x side; None takes the backbone's own number.
        vision: `pictures`; or controls in training and scoring alike: `shuffled` (every sample sees another one's
            pictures), `zero_image` (black), `zero_embedding` (the language model gets zeros; nothing is trained).
    """

    backbone: str
    suite: str
    kind: Kind
    encoder: str | None = None
    seed: int = 0
    side: int | None = None
    vision: Vision = "pictures"

    @property
    def source(self) -> str:
        """Whose tokens are read."""
        if self.encoder is not None:
            return self.encoder
        return native_source(self.backbone, tower=self.kind == "wrapped")

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.kind != "native" and self.vision != "zero_embedding"

    @property
    def is_candidate(self) -> bool:
        """Whether it is one of the ranked grafts, not a control."""
        return self.kind == "graft" and self.vision == "pictures" and self.side is None

    @property
    def label(self) -> str:
        """What tables call it, seed aside."""
        if self.vision == "zero_embedding":
            return "zero embedding"
        name = {"native": "native", "wrapped": "native, wrapped", "lora": "native + LoRA"}.get(
            self.kind, self.encoder or ""
        )
        size = f", {self.side} x {self.side} tokens" if self.side is not None else ""
        what = {"shuffled": ", shuffled pictures", "zero_image": ", zero image"}.get(self.vision, "")
        return name + size + what

    def asdict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """Which cells a study has.

    Attributes:
        backbones, encoders, suites: names.
        seeds: of every candidate, and of the wrapped and LoRA controls.
        control_seeds: of the other controls.
        controls: among `CONTROLS`.
        pooling: token sides of the pooling control.
    """

    backbones: Sequence[str]
    encoders: Sequence[str]
    suites: Sequence[str]
    seeds: int = 3
    control_seeds: int = 1
    controls: Sequence[str] = CONTROLS
    pooling: Sequence[int] = (4, 2)

    def __post_init__(self) -> None:
        for name in ("backbones", "encoders", "suites"):
            given = list(getattr(self, name))
            if not given or len(set(given)) != len(given):
                raise FoveaError(f"--{name}: expected different names, at least one, got {given}")
        if self.seeds < 1 or self.control_seeds < 0:
            raise FoveaError(
                f"expected --seeds of at least 1 and --control_seeds of at least 0, got {self.seeds} and "
                f"{self.control_seeds}"
            )
        if unknown := sorted(set(self.controls) - set(CONTROLS)):
            raise FoveaError(f"--controls: expected among {', '.join(CONTROLS)}, got {', '.join(unknown)}")
        if self.control_seeds > self.seeds:
            raise FoveaError(
                f"--control_seeds: expected at most --seeds, {self.seeds}, as a control is compared with the same "
                f"seeds, got {self.control_seeds}"
            )
        if any(side < 1 for side in self.pooling) or len(set(self.pooling)) != len(self.pooling):
            raise FoveaError(
                f"--pooling: expected different token sides of at least 1, got {list(self.pooling)}"
            )

    def cells(self) -> list[Cell]:
        """All runs; those of one backbone and suite together, the candidates first."""
        return [
            cell
            for backbone in self.backbones
            for suite in self.suites
            for cell in self._block(backbone, suite)
        ]

    def _block(self, backbone: str, suite: str) -> list[Cell]:
        cells = [
            Cell(backbone, suite, "graft", encoder, seed)
            for encoder in self.encoders
            for seed in range(self.seeds)
        ]
        wanted, few, first = set(self.controls), range(self.control_seeds), self.encoders[0]
        if "native" in wanted:
            cells.append(Cell(backbone, suite, "native"))
        kinds: tuple[Kind, ...] = ("wrapped", "lora")
        for kind in kinds:
            if kind in wanted:
                cells += [Cell(backbone, suite, kind, seed=seed) for seed in range(self.seeds)]
        if "zero_embedding" in wanted:
            cells.append(Cell(backbone, suite, "native", vision="zero_embedding"))
        if "shuffled" in wanted:
            cells += [
                Cell(backbone, suite, "graft", e, s, vision="shuffled") for e in self.encoders for s in few
            ]
        if "zero_image" in wanted:
            cells += [Cell(backbone, suite, "graft", first, s, vision="zero_image") for s in few]
        if "pooling" in wanted:
            cells += [Cell(backbone, suite, "graft", first, s, side) for side in self.pooling for s in few]
        return cells


def native_source(backbone: str, *, tower: bool) -> str:
    """Name of a backbone's own vision among the sources of tokens."""
    return f"{backbone}:{'tower' if tower else 'tokens'}"
