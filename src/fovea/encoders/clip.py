"""CLIP through open_clip, with the X_attn read-out of EF-VLA.

Shape letters: B batch, N patches, L text positions, D joint width, V vision width.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fovea.encoders.base import Encoder, check_images, check_sentences, check_tap
from fovea.encoders.registry import unknown_name
from fovea.errors import FoveaError
from fovea.nn.attention import merge_heads, split_heads
from fovea.tokens import Tokens

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HUB_FILE = "open_clip_model.safetensors"


class ClipEncoder(Encoder):
    """A CLIP of open_clip whose picture tower is a plain vision transformer.

    Pictures are squashed to the square that the network takes, not cropped: a robot's picture has no unimportant
    edge.

    Args:
        model: open_clip's CLIP.
        name: registry name.
        tap: see `Encoder.tap`.
        tokenizer: sentences -> ids (B, L), the end token having the largest id (CLIP's own by default).
        mean, std: of the pixels, in [0, 1].

    Raises:
        FoveaError: the model is no plain CLIP (SigLIP, CoCa and convolutional towers have no such last block).
    """

    model: Any  # open_clip.CLIP, whose attributes torch's stubs cannot see

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
        plain = isinstance(model, open_clip.CLIP) and isinstance(visual, VisionTransformer)
        if not plain or visual.attn_pool is not None or model.text_pool_type != "argmax":
            raise FoveaError(
                f"expected a CLIP with a plain vision transformer, got {name}; "
                "take one such as ViT-B-32/openai or ViT-B-16/laion2b_s34b_b88k"
            )
        self.model = model
        self.name, self.tap = name, check_tap(tap)
        self.image_size = visual.image_size[0]
        self.grid = (visual.grid_size[0], visual.grid_size[1])
        self.width = visual.output_dim
        self.max_words = model.context_length
        self.temperature = float(torch.exp(-model.logit_scale.detach()))
        self.mean, self.std = tuple(mean), tuple(std)
        self._tokenize = tokenizer or open_clip.SimpleTokenizer(context_length=model.context_length)

    def describe(self) -> dict[str, Any]:
        """Everything but the weights that changes features."""
        quick_gelu = any(isinstance(module, open_clip.transformer.QuickGELU) for module in self.modules())
        heads = [block.attn.num_heads for block in self.model.visual.transformer.resblocks]
        return {
            "image_size": self.image_size,
            "resize": "bicubic, antialiased, squashed",
            "mean": self.mean,
            "std": self.std,
            "quick_gelu": quick_gelu,
            "heads": heads,
        }

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> normalised float (B, 3, image_size, image_size)."""
        check_images(images)
        pixels = images.float() / 255
        size = (self.image_size, self.image_size)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
            pixels = pixels.clamp(0, 1)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W), upright RGB -> patches at `tap`, values (B, N, D), L2-normalised."""
        values = self.patches(self.preprocess(images))
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def patches(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels (B, 3, S, S) -> patches at `tap` (B, N, D), L2-normalised.

        The class token is dropped, then ln_post and the visual projection as CLIP applies them to that token.
        """
        visual = self.model.visual
        *blocks, last = visual.transformer.resblocks
        x = visual._embeds(pixels)
        for block in blocks:
            x = block(x)
        attn_qq = self.tap == "attn_qq"
        x = last(x) if self.tap == "out" else attend(last.attn, last.ln_1(x), query_query=attn_qq)
        return F.normalize(visual.ln_post(x[:, 1:]) @ visual.proj, dim=-1)

    def encode_text(self, sentences: Sequence[str]) -> Tokens:
        """Sentences -> (B, L, D), L2-normalised; mask True between start and end token."""
        ids = self._ids(sentences)
        place = torch.arange(ids.shape[1], device=ids.device)
        return Tokens(self.encode_ids(ids), (place > 0) & (place < ids.argmax(dim=1, keepdim=True)))

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (B, D), L2-normalised: CLIP's own embedding, read at the end token."""
        ids = self._ids(sentences)
        return self.encode_ids(ids)[torch.arange(len(ids)), ids.argmax(dim=1)]

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) -> every position (B, L, D), L2-normalised: ln_final and projection on each."""
        model = self.model
        x = model.token_embedding(ids) + model.positional_embedding
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        projection = model.text_projection
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return F.normalize(x, dim=-1)

    def _ids(self, sentences: Sequence[str]) -> Tensor:
        return self._tokenize(check_sentences(sentences)).to(self.model.token_embedding.weight.device)


def attend(attention: nn.MultiheadAttention, x: Tensor, *, query_query: bool) -> Tensor:
    """Self-attention with its output projection, (B, N, V); `query_query` compares queries with queries."""
    q, k, v = (
        split_heads(part, attention.num_heads)
        for part in F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    )
    return attention.out_proj(merge_heads(F.scaled_dot_product_attention(q, q if query_query else k, v)))


def create_clip(name: str, *, tap: str | None = None, quick_gelu: bool | None = None) -> ClipEncoder:
    """Build "<model>/<tag>" (weights from the Hugging Face hub or its cache) or "<model>//<file.safetensors>".

    Non-obvious: OpenAI's weights need QuickGELU. A tag knows; a file does not, so name the model
    "ViT-B-32-quickgelu" (or pass `quick_gelu=True`) for OpenAI's weights in a file.

    Raises:
        FoveaError: unknown model or tag, weights not there, or weights that do not fit.
    """
    model_name, _, rest = name.partition("/")
    config = open_clip.get_model_config(model_name)
    if config is None:
        raise FoveaError(unknown_name("open_clip model", model_name, open_clip.list_models()))
    if config.get("custom_text") or "timm_model_name" in config["vision_cfg"]:
        raise FoveaError(
            f"expected a CLIP with a plain vision transformer, got {model_name}; take one such as ViT-B-32/openai"
        )
    tag = {} if rest.startswith("/") else get_pretrained_cfg(model_name, rest)
    path = local_file(name, rest[1:]) if rest.startswith("/") else hub_file(name, model_name, rest, tag)
    if quick_gelu is None:
        quick_gelu = bool(config.get("quick_gelu") or tag.get("quick_gelu"))
    model = open_clip.CLIP(**{**config, "quick_gelu": quick_gelu})
    try:
        state = {key: value.float() for key, value in load_file(path).items()}
        model.load_state_dict(state, strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise FoveaError(f"{path} does not hold the weights of {model_name}: {error}") from error
    mean, std = tag.get("mean", OPENAI_MEAN), tag.get("std", OPENAI_STD)
    return ClipEncoder(model, name=name, tap=tap or "attn_qk", mean=mean, std=std)


def local_file(name: str, text: str) -> Path:
    """Find the file of "<model>//<file>"; an absolute path may drop its first slash."""
    path = next((p for p in (Path(text), Path("/" + text)) if p.is_file()), None)
    if path is None:
        raise FoveaError(f"expected a weights file after // in {name!r}, found none at {text}")
    if path.suffix != ".safetensors":
        raise FoveaError(
            f"expected a .safetensors file, got {path}; convert it (pickled weights are not loaded)"
        )
    return path


def hub_file(name: str, model: str, tag: str, entry: dict[str, Any]) -> Path:
    """Fetch the weights of an open_clip tag, or say which file is wanted and where it lives."""
    if not entry:
        raise FoveaError(unknown_name(f"tag of {model}", tag, open_clip.list_pretrained_tags_by_model(model)))
    repository, _, file = entry.get("hf_hub", "").rpartition("/")
    file = str(Path(file).with_suffix(".safetensors")) if file else HUB_FILE
    if not repository:
        raise FoveaError(
            f"the weights of {name} exist only as a pickle ({entry.get('url')}), which is not loaded; convert "
            f"them to safetensors and use {model}//<file.safetensors>"
        )
    try:
        return Path(hf_hub_download(repository, file))
    except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
        quick = "-quickgelu" if entry.get("quick_gelu") and not model.endswith("-quickgelu") else ""
        raise FoveaError(
            f"the weights of {name} are not on this machine and cannot be downloaded: {file} of "
            f"https://huggingface.co/{repository} is wanted. With a copy of that file, use the encoder "
            f"{model}{quick}//<path of {file}>. ({type(error).__name__})"
        ) from error
