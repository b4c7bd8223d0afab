"""A VLM from its configuration."""

import torch
from torch import nn

from fovea.encoders import VisionEncoder, create_vision_encoder
from fovea.errors import FoveaError
from fovea.vlm.base import VLM
from fovea.vlm.config import VLMConfig
from fovea.vlm.load_prismatic import (
    VISION,
    WHERE,
    group_of,
    load_checkpoint,
    read_checkpoint,
    read_safetensors,
)

LANGUAGE_FILE = "model.safetensors"


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
        vlm = _prismatic(config, encoder, load_weights)
    if config.trainable == "lora":
        from fovea.vlm.lora import add_lora

        add_lora(vlm, config.lora_rank, config.lora_alpha, config.lora_dropout)
    else:
        vlm.requires_grad_(config.trainable == "all")
    vlm.action_queries.requires_grad_(config.trainable != "nothing")
    return vlm


def create_vision(config: VLMConfig) -> VisionEncoder:
    """The vision encoder of a VLM alone, with the weights that it has inside: those of `checkpoint` where that holds
    any (VLA-Adapter and OpenVLA-OFT finetuned theirs), else the encoder's own.

    Raises:
        FoveaError: weights are missing, or do not fit.
    """
    state = read_checkpoint(config.checkpoint) if config.checkpoint else {}
    return _vision(config, state, random=config.weights == "random")


def _vision(config: VLMConfig, state: dict[str, torch.Tensor], random: bool) -> VisionEncoder:
    own = {key: value for key, value in state.items() if group_of(key) == VISION}
    encoder = create_vision_encoder(config.encoder, random_weights=random or bool(own))
    if own:
        load_checkpoint(nn.ModuleDict({VISION: encoder}), own, str(config.checkpoint), required=(VISION,))
    return encoder


def _prismatic(config: VLMConfig, encoder: VisionEncoder | None, load_weights: bool) -> VLM:
    """Weights of the language model and the vision encoder from a public checkpoint, or each from its own source."""
    from fovea.vlm.prismatic import PrismaticVLM

    pretrained = load_weights and config.weights == "pretrained"
    if pretrained and config.checkpoint is None and config.trainable != "all":
        raise FoveaError(
            "expected vlm.checkpoint, got none: a trained projector between vision and language comes only with one. "
            f"Give {WHERE}; or set vlm.trainable=all to train a new projector"
        )
    state = read_checkpoint(config.checkpoint) if load_weights and config.checkpoint else {}
    if encoder is None:
        encoder = _vision(config, state, random=not pretrained)
    language = None
    if pretrained and not state:
        # The file is looked for before half a billion numbers are drawn for nothing.
        language = _language_weights(config)
    vlm = PrismaticVLM(config, encoder)
    if state:
        load_checkpoint(vlm, state, str(config.checkpoint))
    elif language is not None:
        state = {f"language_model.{key}": value for key, value in language.items()}
        load_checkpoint(vlm, state, config.language_model, required=("language_model",))
    return vlm


def _language_weights(config: VLMConfig) -> dict[str, torch.Tensor]:
    from fovea.vlm.prompt import find_file

    option = "vlm.language_model=<folder with model.safetensors and tokenizer.json>"
    return read_safetensors(
        find_file(config.language_model, LANGUAGE_FILE, "the language model's weights", option)
    )
