"""SigLIP's picture tower, the second half of Prismatic's fused encoder."""

from fovea.encoders.vit import VitEncoder, build_vit

MODEL = "vit_so400m_patch14_siglip_224.webli"
IMAGE_SIZE = 224


def create_siglip(
    name: str = "siglip", *, tap: str | None = None, random_weights: bool = False
) -> VitEncoder:
    """Build "siglip", 256 patches of 1152 numbers at 224 px; "siglip@<size>" and "siglip//<file>" as with timm names.

    Non-obvious: without its tag, timm's name means SigLIP 2 today (v2_webli); Prismatic, OpenVLA and VLA-Adapter were
    trained on the first one (webli).

    Raises:
        FoveaError: the weights are missing (with the file that is wanted) or do not fit.
    """
    rest = name.removeprefix("siglip")
    return build_vit(name, MODEL + rest, tap=tap, random_weights=random_weights, size=IMAGE_SIZE)
