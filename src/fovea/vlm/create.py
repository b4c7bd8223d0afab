"""A VLM from its configuration."""

from fovea.encoders import VisionEncoder
from fovea.errors import FoveaError
from fovea.vlm.base import VLM
from fovea.vlm.config import VLMConfig


def create_vlm(config: VLMConfig, *, encoder: VisionEncoder | None = None, load_weights: bool = True) -> VLM:
    """Build a VLM; what `config.trainable` does not name is frozen.

    Args:
        config: sizes and choices; facts of the encoder (grid, width, identity) are filled in here.
        encoder: use this vision encoder instead of building `config.encoder`.
        load_weights: False builds the networks only, for a checkpoint that is loaded afterwards and for counting
            parameters inside `with torch.device("meta")`.

    Raises:
        FoveaError: weights are missing (with the files that are wanted), or do not fit.
    """
    if config.kind == "tiny":
        from fovea.vlm.tiny import TinyVLM

        vlm: VLM = TinyVLM(config, encoder)
    else:
        raise FoveaError("the kind prismatic is not there yet")
    if config.trainable in ("queries", "nothing"):
        vlm.requires_grad_(False)
        vlm.action_queries.requires_grad_(config.trainable == "queries")
    return vlm
