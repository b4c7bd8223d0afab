"""DINOv2 with registers, the first half of Prismatic's fused encoder."""

from fovea.encoders.vit import VitEncoder, build_vit

MODEL = "vit_large_patch14_reg4_dinov2.lvd142m"
IMAGE_SIZE = 224


def create_dinov2(
    name: str = "dinov2", *, tap: str | None = None, random_weights: bool = False
) -> VitEncoder:
    """Build "dinov2", 256 patches of 1024 numbers at 224 px; "dinov2@<size>" and "dinov2//<file>" as with timm names.

    Non-obvious: timm's own size is 518 px; VLAs read it at 224, positions resampled.

    Raises:
        FoveaError: the weights are missing (with the file that is wanted) or do not fit.
    """
    rest = name.removeprefix("dinov2")
    return build_vit(name, MODEL + rest, tap=tap, random_weights=random_weights, size=IMAGE_SIZE)
