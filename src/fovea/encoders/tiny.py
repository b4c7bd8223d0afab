"""`tiny`, the encoder that ships: a small dual encoder trained from scratch on rendered LIBERO scenes.

Picture tower: three stride-2 convolutions (patches of 8 px) and a few transformer blocks with learned
positions; text tower: one token a word (see `words`), bidirectional blocks, a summary token for the whole
sentence. Both end in LayerNorm, a linear map to the joint space and L2 normalisation, so that words, sentences
and patches compare by dot product. `fovea pretrain` trains it THROUGH the tap that fusion reads: a small
encoder trained at its ordinary output is useless at X_attn (results/encoder.md).

Shape letters: B batch, N patches (row-major), M words, P pieces of a word, W tower width, D joint width.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fovea.encoders.base import TAPS, Encoder, check_images, check_sentences, check_tap
from fovea.encoders.files import read_weights
from fovea.encoders.words import FIRST_WORD, WordIds, WordTokenizer
from fovea.errors import FoveaError
from fovea.tokens import Tokens

WEIGHTS = Path(__file__).parent / "weights"
_MEAN, _STD = 0.45, 0.25


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of a `TinyEncoder`.

    Attributes:
        image_size: side of the square picture in pixels; patches are 8 px.
        tower_width: W of both towers.
        image_depth: transformer blocks over patches; the last one is where `tap` reads.
        text_depth: transformer blocks over words.
        heads: attention heads of every block.
        width: D of the joint space.
        max_words: M.
        buckets: hash buckets of the character pieces.
        tap: where patches are read, and where training reads them.
    """

    image_size: int = 128
    tower_width: int = 128
    image_depth: int = 4
    text_depth: int = 2
    heads: int = 4
    width: int = 128
    max_words: int = 24
    buckets: int = 2048
    tap: str = "out"

    def __post_init__(self) -> None:
        check_tap(self.tap)
        if self.image_size % 8 or self.tower_width % (8 * self.heads):
            raise FoveaError(
                "expected image_size to be a multiple of 8 and tower_width a multiple of 8 x heads, "
                f"got image_size={self.image_size}, tower_width={self.tower_width}, heads={self.heads}"
            )

    @classmethod
    def tiny(cls, **changes: Any) -> "TinyConfig":
        """A toy for tests."""
        sizes = {"tower_width": 32, "image_depth": 2, "text_depth": 1, "width": 32, "buckets": 64, "heads": 2}
        return cls(**{**sizes, **changes})


class _Block(nn.Module):
    """Pre-LN transformer block whose attention can be read on its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def attention(self, x: Tensor, mask: Tensor | None = None, query_query: bool = False) -> Tensor:
        """Multi-head attention on norm1(x), projection included, no residual: (B, N, W) -> (B, N, W)."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, q if query_query else k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(x, mask)
        return x + self.mlp(self.norm2(x))


class _ImageTower(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        width, grid = config.tower_width, config.image_size // 8
        channels = [3, width // 4, width // 2, width]
        self.stem = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.GELU())
                for a, b in itertools.pairwise(channels)
            )
        )
        self.positions = nn.Parameter(torch.randn(grid * grid, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.image_depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, config.width, bias=False)

    def forward(self, pixels: Tensor, tap: str, cells: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) float -> (B, N, D) L2-normalised; `cells` (B, N): grid cells of a crop's patches."""
        x = self.stem(pixels).flatten(2).transpose(1, 2)
        x = x + (self.positions if cells is None else self.positions[cells])
        for block in self.blocks[:-1]:
            x = block(x)
        last = cast(_Block, self.blocks[-1])
        x = last(x) if tap == "out" else last.attention(x, query_query=tap == "attn_qq")
        return F.normalize(self.project(self.norm(x)), dim=-1)


class _TextTower(nn.Module):
    def __init__(self, config: TinyConfig, vocabulary_size: int) -> None:
        super().__init__()
        width = config.tower_width
        self.words = nn.Embedding(vocabulary_size + FIRST_WORD, width, padding_idx=0)
        self.pieces = nn.Embedding(config.buckets + 1, width, padding_idx=0)
        self.summary = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(config.max_words, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.text_depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, config.width, bias=False)

    def forward(self, words: Tensor, pieces: Tensor) -> Tensor:
        """words (B, M), pieces (B, M, P) -> (B, 1 + M, D) L2-normalised; position 0 is the whole sentence."""
        count = (pieces != 0).sum(-1, keepdim=True).clamp(min=1)
        x = self.words(words) + self.pieces(pieces).sum(-2) / count + self.positions[: words.shape[1]]
        x = torch.cat([self.summary.expand(len(x), 1, -1), x], dim=1)
        mask = F.pad(words != 0, (1, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return F.normalize(self.project(self.norm(x)), dim=-1)


class TinyEncoder(Encoder):
    """The tiny dual encoder; see the module's docstring.

    Args:
        config: sizes and tap.
        vocabulary: known words; other words are read by their character pieces.
        temperature: image-text temperature at the end of training.
        name: registry name.
    """

    def __init__(
        self,
        config: TinyConfig,
        vocabulary: Sequence[str],
        temperature: float = 0.07,
        name: str = "tiny",
    ) -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.image_size = config.image_size
        self.grid = (config.image_size // 8, config.image_size // 8)
        self.width = config.width
        self.max_words = config.max_words
        self.temperature = temperature
        self.tap = config.tap
        self.tokenizer = WordTokenizer(vocabulary, config.buckets, config.max_words)
        self.image = _ImageTower(config)
        self.text = _TextTower(config, len(self.tokenizer.vocabulary))

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float (B, 3, 128, 128): antialiased resize if needed, then (x / 255 - 0.45) / 0.25."""
        check_images(images)
        x = images.float()
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 255)
        return self.normalise(x)

    @staticmethod
    def normalise(pixels: Tensor) -> Tensor:
        """Scale float pixels in 0..255 as the picture tower expects them."""
        return (pixels / 255 - _MEAN) / _STD

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W), upright RGB -> patches at `tap`, values (B, N, D), L2-normalised."""
        values = self.patches(self.preprocess(images))
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def patches(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels (B, 3, S, S) -> patches at `tap` (B, N, D), L2-normalised."""
        return self.image(pixels, self.tap)

    def encode_text(self, sentences: Sequence[str]) -> Tokens:
        """Sentences -> words, values (B, M, D), L2-normalised and zero on padding; mask True on words."""
        values, ids = self._text(sentences)
        mask = ids.mask.to(values.device)
        return Tokens(values[:, 1:] * mask[..., None], mask)

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (B, D), L2-normalised: the direction of the object that the sentence is about."""
        return self._text(sentences)[0][:, 0]

    def _text(self, sentences: Sequence[str]) -> tuple[Tensor, WordIds]:
        ids = self.tokenizer(check_sentences(sentences))
        device = self.text.summary.device
        return self.text(ids.words.to(device), ids.pieces.to(device)), ids

    def describe(self) -> dict[str, Any]:
        """Everything but the weights that changes features."""
        return {
            "config": asdict(self.config),
            "vocabulary": list(self.tokenizer.vocabulary),
            "mean": _MEAN,
            "std": _STD,
            "resize": "bilinear, antialiased",
        }


def create_tiny(name: str = "tiny", *, tap: str | None = None) -> TinyEncoder:
    """Load "tiny" (the weights that ship) or "tiny:<folder>" (tiny.safetensors and tiny.json in a folder).

    `tap` other than the one the weights were trained through is allowed, for diagnosis: expect poor pointing.

    Raises:
        FoveaError: the folder or one of its files is missing, or the files do not belong together.
    """
    folder = Path(name.partition(":")[2] or WEIGHTS)
    weights, card = folder / "tiny.safetensors", folder / "tiny.json"
    for path in (weights, card):
        if not path.is_file():
            raise FoveaError(
                f"expected the tiny encoder's {path.name} in {folder}, found none; "
                "train one with `fovea pretrain` or give another folder as tiny:<folder>"
            )
    try:
        record = json.loads(card.read_text())
        named = set(record["config"])
        vocabulary, temperature = record["vocabulary"], record["temperature"]
    except (ValueError, KeyError, TypeError) as error:
        raise FoveaError(
            f"{card} is truncated or damaged ({error!r}); restore it or train the encoder anew"
        ) from error
    known = {field.name for field in fields(TinyConfig)}
    if named != known:
        raise FoveaError(f"expected {card} to hold the fields {sorted(known)}, got {sorted(named)}")
    config = TinyConfig(**{**record["config"], "tap": check_tap(tap or record["config"]["tap"], TAPS)})
    encoder = TinyEncoder(config, vocabulary, temperature, name)
    state = read_weights(weights)
    try:
        encoder.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise FoveaError(f"{weights} does not fit {card}: {error}") from error
    return encoder
