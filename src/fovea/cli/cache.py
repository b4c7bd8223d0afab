"""`fovea cache`: the frozen encoder's features of a data set, computed once and shared by every run."""

from dataclasses import dataclass, field
from pathlib import Path

from fovea.data.augment import Augmentation
from fovea.errors import FoveaError


@dataclass
class Config:
    """Which features of which data set."""

    dataset: Path  # folder of a LeRobot data set, as `fovea collect` writes it
    encoder: str = "tiny"  # tiny, tiny:FOLDER, ViT-B-32/openai, dinov2, siglip, dinov2+siglip, timm/NAME
    tap: str | None = None  # where patches are read (attn_qk, attn_qq, out); the encoder's own when not given
    variants: int = 0  # augmented views of every frame, for `fovea train --variants`
    augment: Augmentation = field(default_factory=Augmentation)  # what is drawn (Table 6 of the paper)
    workers: int = 2  # threads that encode at the same time
    batch_size: int = 32  # pictures per call of the encoder
    device: str | None = None  # cpu, cuda, cuda:1 or mps; a GPU where there is one when not given
    dry_run: bool = False  # only say how large it would be
    verify: bool = False  # read everything back and compare it with its checksums

    def __post_init__(self) -> None:
        if self.workers < 1 or self.batch_size < 1:
            raise FoveaError(
                f"workers and batch_size: expected at least 1, got {self.workers} and {self.batch_size}"
            )
        if self.variants < 0:
            raise FoveaError(f"variants: expected 0 or more, got {self.variants}")


def run(config: Config) -> None:
    """Build what is missing and say where the cache is."""
    from fovea.data.dataset import open_dataset
    from fovea.data.feature_views import build_views, plan_views
    from fovea.data.files import human_size
    from fovea.encoders.registry import create_vision_encoder
    from fovea.policies.ef_vla.configuration_ef_vla import checked_device

    encoder = create_vision_encoder(config.encoder, tap=config.tap)
    encoder.to(checked_device(config.device))
    dataset = open_dataset(config.dataset)
    what = (encoder, dataset, config.augment, config.variants)
    if config.dry_run:
        plan = plan_views(*what)
        for builder in plan:
            print(builder.describe_size())
        missing = sum(builder.bytes_missing() for builder in plan)
        print(f"{human_size(sum(builder.size for builder in plan))} in all, {human_size(missing)} to write")
        return
    views = build_views(*what, workers=config.workers, batch_size=config.batch_size)
    for cache in (views.clean, *views.augmented):
        frames, cameras, patches, width = cache.shape
        size = human_size(2 * frames * cameras * patches * width)
        print(f"{frames:,} frames x {cameras} cameras x {patches} patches x {width}, {size}: {cache.folder}")
    if config.verify:
        damaged = views.verify()
        if damaged:
            raise FoveaError(f"episodes {damaged} are damaged; run this again to compute them anew")
        print("every episode matches its checksum")
