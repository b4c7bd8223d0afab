"""`fovea cache`: the frozen encoder's features of a data set, computed once and shared by every run."""

from dataclasses import dataclass
from pathlib import Path

from fovea.errors import FoveaError


@dataclass
class Config:
    """Which features of which data set."""

    dataset: Path  # folder of a LeRobot data set, as `fovea collect` writes it
    encoder: str = "tiny"  # tiny, tiny:FOLDER, ViT-B-32/openai, dinov2, siglip, dinov2+siglip, timm/NAME
    tap: str | None = None  # where patches are read (attn_qk, attn_qq, out); the encoder's own when not given
    workers: int = 2  # threads that encode at the same time
    batch_size: int = 32  # pictures per call of the encoder
    verify: bool = False  # read everything back and compare it with its checksums

    def __post_init__(self) -> None:
        if self.workers < 1 or self.batch_size < 1:
            raise FoveaError(
                f"workers and batch_size: expected at least 1, got {self.workers} and {self.batch_size}"
            )


def run(config: Config) -> None:
    """Build what is missing and say where the cache is."""
    from fovea.data.dataset import open_dataset
    from fovea.data.feature_build import build_features
    from fovea.data.files import human_size
    from fovea.encoders.registry import create_vision_encoder

    encoder = create_vision_encoder(config.encoder, tap=config.tap)
    dataset = open_dataset(config.dataset)
    cache = build_features(encoder, dataset, workers=config.workers, batch_size=config.batch_size)
    frames, cameras, patches, width = cache.shape
    size = human_size(2 * frames * cameras * patches * width)
    print(f"{frames:,} frames x {cameras} cameras x {patches} patches x {width}, {size}: {cache.folder}")
    if config.verify:
        damaged = cache.verify()
        if damaged:
            raise FoveaError(f"episodes {damaged} are damaged; delete {cache.folder} and run this again")
        print("every episode matches its checksum")
