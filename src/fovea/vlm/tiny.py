"""The tiny VLM: frozen patches and words of a small encoder, a few transformer layers, trained with the policy.

Sequence: patches (camera after camera), the words of the instruction, action queries. Patches carry a learned camera
and a learned place in the grid, so the model knows where it looks; words carry their place in the sentence. Patches
and words of a dual encoder live in one joint space and share one projection: a word and the patch that shows it meet
as they left the encoder.

Shape letters: B batch, C cameras, N patches of a camera, M = C * N, P words, Q queries, D width, R feature width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fovea.encoders import Encoder, VisionEncoder, create_vision_encoder
from fovea.encoders.words import WordTokenizer
from fovea.errors import FoveaError
from fovea.nn.attention import merge_heads, mlp, split_heads
from fovea.nn.onednn import use_onednn
from fovea.nn.positions import sincos_2d
from fovea.tokens import Tokens
from fovea.vlm.base import VLM, query_parameter
from fovea.vlm.config import VLMConfig
from fovea.vlm.sequence import Sequence

REMEMBERED_SENTENCES = 4096


class TinyVLM(VLM):
    """The preset `tiny`; see the module's docstring.

    Args:
        config: of kind tiny; missing facts of the encoder are filled in from the encoder.
        encoder: use this encoder instead of building one.

    Raises:
        FoveaError: the encoder is not the one the configuration names, or knows no words.
    """

    def __init__(self, config: VLMConfig, encoder: VisionEncoder | None = None) -> None:
        super().__init__(config)
        # In a tuple: the frozen encoder is no submodule, its weights stay out of checkpoints.
        self._encoder: tuple[VisionEncoder, ...] = ()
        if encoder is not None:
            self._adopt(encoder)
        elif config.encoder_grid is None or config.feature_width is None:
            self._adopt(self._create())
        self._set_sizes()
        width = config.width
        self.projection = nn.Linear(self.feature_width, width)
        self.camera = nn.Parameter(torch.randn(self.cameras, width) * 0.02)
        self.place = nn.Parameter(sincos_2d(self.grid, width) * width**0.5 * 0.5)
        self.learned_words = _LearnedWords(config) if config.words == "learned" else None
        self.pointing = nn.Parameter(torch.randn(width) * 0.3) if config.pointing else None
        self._remembered: dict[str, Tokens] = {}
        self._directions: dict[str, Tensor] = {}
        self.word_place = nn.Parameter(torch.randn(config.max_words, width) * 0.02)
        self.word = nn.Parameter(torch.randn(width) * 0.02)
        self.action_queries = query_parameter(self.queries, width)
        self.blocks = nn.ModuleList(
            _Block(width, config.heads, config.hidden, config.dropout) for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.layers))
        use_onednn(self)

    @property
    def vision(self) -> VisionEncoder:
        """The frozen encoder, built at first use, on the device of this model.

        Raises:
            FoveaError: it is not the encoder this model was trained with.
        """
        if not self._encoder:
            self._adopt(self._create())
        return self._encoder[0].to(self.action_queries.device)

    def _create(self) -> VisionEncoder:
        with torch.device("cpu"):  # its facts are needed even where the model is built on the meta device
            random = self.config.weights == "random"
            return create_vision_encoder(self.config.encoder, random_weights=random)

    def _adopt(self, encoder: VisionEncoder) -> None:
        config = self.config
        if config.encoder_identity not in (None, encoder.identity):
            raise FoveaError(
                f"expected the encoder this vlm was trained with, {config.encoder} of identity "
                f"{str(config.encoder_identity)[:12]}, got {encoder.name} of identity {encoder.identity[:12]}; "
                "restore its weights and preprocessing, or train anew"
            )
        sizes = (encoder.grid, encoder.width)
        if (config.encoder_grid or sizes[0], config.feature_width or sizes[1]) != sizes:
            raise FoveaError(
                f"expected an encoder of grid {config.encoder_grid} and width {config.feature_width}, got "
                f"{encoder.name} with {sizes}; leave encoder_grid and feature_width unset"
            )
        if config.words == "encoder" and not isinstance(encoder, Encoder):
            raise FoveaError(
                f"expected an encoder that knows words, got {encoder.name}; set words=learned for one that only sees"
            )
        config.encoder_grid, config.feature_width = sizes
        config.encoder_identity = encoder.identity
        self._encoder = (encoder.freeze(),)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Upright RGB uint8 pictures (B, C, 3, H, W) -> raw features (B, M, R); see `VLM.encode_images`."""
        return super().encode_images(images)

    def prompt(self, instructions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Words of the instructions (B, P, D), P the longest one's length but at most `max_words`."""
        if self.learned_words is None:
            tokens = self._encoder_words(instructions)
        else:
            tokens = self.learned_words(instructions, device)
        last = int(tokens.mask.any(0).nonzero().max()) + 1
        values, mask = tokens.values[:, :last], tokens.mask[:, :last]
        return values + self.word + self.word_place[:last], mask

    def _encoder_words(self, sentences: list[str]) -> Tokens:
        """Words of the frozen encoder, each sentence encoded once, through the projection that patches take."""
        new = [s for s in dict.fromkeys(sentences) if s not in self._remembered]
        if len(self._remembered) + len(new) > REMEMBERED_SENTENCES:
            self._remembered.clear()
            new = list(dict.fromkeys(sentences))
        if new:
            encoder = self.vision
            assert isinstance(encoder, Encoder)  # _adopt saw to it
            with torch.no_grad():
                words = encoder.encode_text(new)
            for sentence, values, mask in zip(new, words.values, words.mask, strict=True):
                if not mask.any():
                    raise FoveaError(f"expected an instruction with at least one word, got {sentence!r}")
                self._remembered[sentence] = Tokens(
                    values[: self.config.max_words], mask[: self.config.max_words]
                )
        known = [self._remembered[s] for s in sentences]
        values = self.joint(torch.stack([tokens.values for tokens in known]).to(self.word))
        return Tokens(values, torch.stack([tokens.mask for tokens in known]).to(values.device))

    def project(self, features: Tensor, instructions: list[str], mask: Tensor | None) -> Tensor:
        """(B, M, R) -> (B, M, D), with camera and place, and with `pointing` the match with the instruction."""
        where = self.camera[:, None] + self.place
        patches = self.joint(features) + where.flatten(0, 1)
        if self.pointing is None:
            return patches
        return patches + self.match(features, instructions, mask)[..., None] * self.pointing

    @torch.no_grad()
    def match(self, features: Tensor, instructions: list[str], mask: Tensor | None = None) -> Tensor:
        """Cosine of each patch (B, M, R) with its sentence, mean 0 and variance 1 over a sample's patches: (B, M).

        Patches that the mask (B, M) leaves out count for nothing, and have 0.
        """
        new = [s for s in dict.fromkeys(instructions) if s not in self._directions]
        if len(self._directions) + len(new) > REMEMBERED_SENTENCES:
            self._directions.clear()
            new = list(dict.fromkeys(instructions))
        if new:
            encoder = self.vision
            assert isinstance(encoder, Encoder)  # _adopt saw to it
            self._directions.update(zip(new, encoder.embed_text(new), strict=True))
        sentences = torch.stack([self._directions[s] for s in instructions]).to(features)
        cosine = (F.normalize(features, dim=-1) @ sentences[..., None])[..., 0]
        if mask is None or mask.all():
            return F.layer_norm(cosine, cosine.shape[-1:])
        count = mask.sum(1, keepdim=True).clamp(min=1)
        centred = (cosine - (cosine * mask).sum(1, keepdim=True) / count) * mask
        return centred * (centred.square().sum(1, keepdim=True) / count + 1e-5).rsqrt()

    def joint(self, tokens: Tensor) -> Tensor:
        """Tokens of the encoder (..., R) of any length, brought to unit variance -> (..., D)."""
        return self.projection(F.layer_norm(tokens, tokens.shape[-1:]))

    def run(self, sequence: Sequence) -> list[Tensor]:
        """Each layer's states pass a LayerNorm of their own on the way out."""
        mask = sequence.attention_mask(self.config.attention)
        x, states = sequence.embeddings, []
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = block(x, mask)
            states.append(norm(x))
        return states


class _Block(nn.Module):
    """Pre-LN transformer block with an arbitrary mask."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = mlp(width, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, D), mask (B, 1, S, S) bool -> (B, S, D)."""
        q, k, v = (
            split_heads(part, self.heads) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        x = x + self.dropout(self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class _LearnedWords(nn.Module):
    """Word embeddings learned from scratch: the mean of a word's hashed character pieces, as the tiny encoder reads
    words that it does not know."""

    def __init__(self, config: VLMConfig) -> None:
        super().__init__()
        self.tokenizer = WordTokenizer((), config.vocabulary, config.max_words)
        self.pieces = nn.Embedding(config.vocabulary + 1, config.width, padding_idx=0)

    def forward(self, sentences: list[str], device: torch.device) -> Tokens:
        """(B, P, D) and their mask."""
        ids = self.tokenizer(sentences)
        pieces = ids.pieces.to(device)
        count = (pieces != 0).sum(-1, keepdim=True).clamp(min=1)
        return Tokens(self.pieces(pieces).sum(-2) / count, ids.mask.to(device))
