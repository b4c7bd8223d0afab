"""CLIP and SigLIP through open_clip, with the X_attn read-out of EF-VLA.

Shape letters: B batch, N patches, L text positions, D joint width, S side in pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg
from open_clip.timm_model import TimmModel
from torch import Tensor

from fovea.encoders import clip_files
from fovea.encoders.base import Encoder, check_sentences, check_tap, normalise_pixels
from fovea.encoders.clip_text import (
    ClipTokenizer,
    encode_positions,
    given_tokenizer,
    joint_width,
    named_tokenizer,
    own_tokenizer,
    text_size,
)
from fovea.encoders.clip_vision import grid_of, reader_of
from fovea.encoders.files import local_file, read_weights
from fovea.encoders.registry import unknown_name
from fovea.errors import FoveaError
from fovea.tokens import Tokens

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipEncoder(Encoder):
    """A CLIP of open_clip whose picture tower is a vision transformer, its own or timm's (SigLIP, EVA).

    Pictures are squashed to the square that the network takes, not cropped: a robot's picture has no unimportant
    edge.

    Args:
        model: open_clip's CLIP, CustomTextCLIP or CoCa.
        name: registry name.
        tap: see `Encoder.tap`.
        tokenizer: sentences -> ids (B, L); CLIP's own by default. A plain function is taken to use CLIP's layout
            of the vocabulary: 0 is padding, the last two ids are start and end.
        mean, std: of the pixels, in [0, 1].

    Raises:
        FoveaError: the picture tower has no last attention block over patches (ResNets, ConvNeXt, Swin), or not
            this tap.
    """

    model: Any  # open_clip's models, whose attributes torch's stubs cannot see

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        tap: str = "attn_qk",
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        mean: Sequence[float] = OPENAI_MEAN,
        std: Sequence[float] = OPENAI_STD,
    ) -> None:
        super().__init__()
        visual: Any = getattr(model, "visual", None)
        reader = reader_of(visual)
        if reader is None:
            raise _without_patches(name, type(getattr(visual, "trunk", visual)).__name__)
        self._read, taps = reader
        self.model = model
        self.name, self.tap = name, check_tap(tap, taps)
        self.image_size = visual.image_size[0]
        self.grid = grid_of(visual)
        vocabulary, self.max_words = text_size(model)
        self.temperature = float(torch.exp(-model.logit_scale.detach()))
        self.mean, self.std = tuple(mean), tuple(std)
        if tokenizer is None:
            tokenizer = own_tokenizer(vocabulary, self.max_words)
        self.tokenizer = (
            tokenizer if isinstance(tokenizer, ClipTokenizer) else given_tokenizer(tokenizer, vocabulary)
        )
        self.width = joint_width(model)

    def describe(self) -> dict[str, Any]:
        """Everything but the weights that changes features."""
        visual = self.model.visual
        quick_gelu = any(isinstance(module, open_clip.transformer.QuickGELU) for module in self.modules())
        blocks = visual.trunk.blocks if isinstance(visual, TimmModel) else visual.transformer.resblocks
        return {
            "image_size": self.image_size,
            "resize": "bicubic, antialiased, squashed",
            "mean": self.mean,
            "std": self.std,
            "quick_gelu": quick_gelu,
            "heads": [block.attn.num_heads for block in blocks],
        }

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> normalised float (B, 3, image_size, image_size)."""
        return normalise_pixels(images, self.image_size, self.mean, self.std)

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W), upright RGB -> patches at `tap`, values (B, N, D), L2-normalised."""
        values = self.patches(self.preprocess(images))
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def patches(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels (B, 3, S, S) -> patches at `tap` (B, N, D), L2-normalised; no class token."""
        return F.normalize(self._read(self.model.visual, pixels, self.tap), dim=-1)

    def encode_text(self, sentences: Sequence[str]) -> Tokens:
        """Sentences -> (B, L, D), L2-normalised; mask True on words: not on start, end or padding."""
        return self.encode_tokens(self._ids(sentences))

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (B, D), L2-normalised: CLIP's own embedding of a whole sentence."""
        return self.model.encode_text(self._ids(sentences), normalize=True)

    def encode_tokens(self, ids: Tensor) -> Tokens:
        """Token ids (B, L) -> (B, L, D), L2-normalised, and the mask of words, as `encode_text` of their sentences."""
        return Tokens(self.encode_ids(ids), self.tokenizer.words(ids))

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) -> every position (B, L, D), L2-normalised.

        Raises:
            FoveaError: ids beyond the vocabulary, or more than the context holds.
        """
        self._check_ids(ids)
        return F.normalize(encode_positions(self.model, ids), dim=-1)

    def _check_ids(self, ids: Tensor) -> None:
        text = getattr(self.model, "text", self.model)
        embedding = getattr(text, "token_embedding", None)
        known = embedding.num_embeddings if isinstance(embedding, torch.nn.Embedding) else None
        longest = getattr(text, "context_length", ids.shape[-1])
        if ids.shape[-1] > longest:
            raise FoveaError(f"expected at most {longest} token ids a sentence, got {ids.shape[-1]}")
        if ids.numel() and (ids.min() < 0 or (known is not None and ids.max() >= known)):
            raise FoveaError(
                f"expected token ids from 0 to {known and known - 1}, the vocabulary of {self.name}, got "
                f"{int(ids.min())} to {int(ids.max())}; were they made by another tokenizer?"
            )

    def _ids(self, sentences: Sequence[str]) -> Tensor:
        return self.tokenizer(check_sentences(sentences)).to(self.model.logit_scale.device)


def create_clip(
    name: str, *, tap: str | None = None, quick_gelu: bool | None = None, random_weights: bool = False
) -> ClipEncoder:
    """Build "<model>/<tag>" (weights from the Hugging Face hub or its cache) or "<model>//<file or folder>".

    "<model>/<tag>//<file>" says of what tag a file is: it is needed where tags of a model differ in mean and deviation
    of the pixels (ViT-L-14).

    `random_weights` asks for no weights at all, for a checkpoint that brings its own.

    Non-obvious: OpenAI's and DFN's weights need QuickGELU. A tag knows; a file does not, so name the model
    "ViT-B-32-quickgelu" (or pass `quick_gelu=True`) for such weights in a file.

    Raises:
        FoveaError: unknown model or tag, weights not there, or weights that do not fit.
    """
    model_name, _, rest = name.partition("/")
    config = open_clip.get_model_config(model_name)
    if config is None:
        raise FoveaError(unknown_name("open_clip model", model_name, open_clip.list_models()))
    vision, text = config["vision_cfg"], config["text_cfg"]
    timm = str(vision.get("timm_model_name") or "")
    if isinstance(vision.get("layers"), list) or (timm and not timm.startswith(("vit", "eva"))):
        raise _without_patches(name, timm or "a ResNet")  # before any file is asked for
    tag_name, slashes, file = rest.partition("//") if not rest.startswith("/") else ("", "//", rest[1:])
    local = bool(slashes)
    tag = get_pretrained_cfg(
        model_name, _any_tag(name, model_name, file) if local and not tag_name else tag_name
    )
    if local and tag_name and not tag:
        raise clip_files.unknown_tag(model_name, tag_name)
    if quick_gelu is None:
        quick_gelu = bool(config.get("quick_gelu") or (tag_name and tag.get("quick_gelu")))
    sizes = {**config, "quick_gelu": quick_gelu}
    if vision.get("timm_model_name"):
        sizes["vision_cfg"] = {**vision, "timm_model_pretrained": False}
    path: Path | None = None
    if not random_weights:
        path = (
            local_file(name, file, clip_files.HUB_FILES)
            if local
            else clip_files.hub_file(name, model_name, tag_name, tag)
        )
    reads_with = text.get("hf_model_name")  # a text tower of transformers: its sizes are on the hub
    if reads_with:
        sizes["text_cfg"] = {**text, "hf_model_pretrained": False}
    custom, tokenizer = bool(sizes.pop("custom_text", False) or reads_with), None
    if text.get("hf_tokenizer_name"):
        tokenizer = named_tokenizer(text, path.parent if local and path else None)
    kind = (
        open_clip.CoCa
        if "multimodal_cfg" in sizes
        else open_clip.CustomTextCLIP
        if custom
        else open_clip.CLIP
    )
    try:
        model = kind(**sizes)
    except OSError as error:
        raise FoveaError(
            f"the text tower of {name} is not on this machine and cannot be downloaded: config.json of "
            f"https://huggingface.co/{reads_with} is wanted in the hub's cache"
        ) from error
    encoder = ClipEncoder(
        model,
        name=name,
        tap=tap or "attn_qk",
        tokenizer=tokenizer,
        mean=tag.get("mean", OPENAI_MEAN),
        std=tag.get("std", OPENAI_STD),
    )
    if path is None:
        return encoder
    state = read_weights(path)
    if custom:
        state = convert_to_custom_text_state_dict(state)
        state.pop("text.transformer.embeddings.position_ids", None)  # of older versions of transformers
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise FoveaError(f"{path} does not hold the weights of {model_name}: {error}") from error
    return encoder


def _any_tag(name: str, model: str, file: str) -> str:
    """Some tag of a model, for what a file does not tell: mean and deviation of the pixels.

    Raises:
        FoveaError: tags of the model differ in them.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    entries = [get_pretrained_cfg(model, tag) for tag in tags]
    pixels = {
        (tuple(entry.get("mean") or OPENAI_MEAN), tuple(entry.get("std") or OPENAI_STD)) for entry in entries
    }
    if len(pixels) > 1:
        raise FoveaError(
            f"weights of {model} differ in how pixels are normalised, and a file does not say: expected "
            f"{model}/<tag>//{file}, with a tag among {', '.join(tags)}, got {name}"
        )
    return tags[0] if tags else ""


def _without_patches(name: str, tower: str) -> FoveaError:
    return FoveaError(
        f"expected a CLIP with a vision transformer over patches, got {name}, whose picture tower is {tower}; "
        "take one such as ViT-B-32/openai, ViT-B-16/dfn2b or ViT-B-16-SigLIP/webli"
    )
