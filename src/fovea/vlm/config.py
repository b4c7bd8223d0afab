"""Configuration of a vision-language model that conditions a policy.

Shape letters: C cameras, N patches of a camera, Q action queries, L layers, D width of the language model, R width of
the raw vision features.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fovea.errors import FoveaError

QWEN = "Qwen/Qwen2.5-0.5B"
_CHOICES = {
    "kind": ("tiny", "prismatic"),
    "weights": ("pretrained", "random"),
    "words": ("encoder", "learned"),
    "attention": ("causal", "prefix"),
    "trainable": ("all", "lora", "queries", "nothing"),
}
_POSITIVE = (
    *("cameras", "patch_pool", "layers", "width", "heads", "kv_heads", "hidden", "vocabulary", "queries"),
    *("max_words", "lora_rank", "lora_alpha", "projector_hidden", "rope_theta"),
)


@dataclass
class VLMConfig:
    """Everything that makes a VLM; the defaults are the preset `tiny`.

    Fields left empty ("" or 0) take the value of their kind: `VLMConfig(kind="prismatic")` is the preset `full`.

    Args:
        kind: `tiny`: frozen patches of a small encoder, its words, a small transformer trained with the policy.
            `prismatic`: DINOv2 + SigLIP, a projector and Qwen2.5, as in Prismatic and VLA-Adapter.
        encoder: registry name of the vision encoder (`fovea.encoders.create_vision_encoder`).
        encoder_identity: hash of the frozen encoder's weights and preprocessing, filled in by the kind `tiny` when
            the encoder is first built; a checkpoint refuses an encoder of another identity.
        encoder_grid, feature_width: (rows, columns) of patches and R; None takes them from the encoder.
        weights: `random` builds networks with random weights where pretrained ones would be loaded. Never a default:
            a policy on random features learns nothing.
        cameras: C pictures of a frame, in a fixed order.
        patch_pool: side of the square of patches that is averaged to one before the model sees it; 1 keeps all.
            The preset `tiny` takes 2: 128 patches of two cameras train five times faster on a CPU than 512.

        layers, width, heads, kv_heads, hidden: the language model: L, D, attention heads, key/value heads (kind
            prismatic only), width of the MLPs.
        vocabulary, rope_theta: rows of the token embedding and base of the rotary positions (kind prismatic only).
        projector_hidden: inner width of the vision projector (kind prismatic only).
        language_model: Hugging Face repository or local folder with Qwen's model.safetensors and tokenizer.json
            (kind prismatic only).
        tokenizer: a folder or tokenizer.json; `bytes`: one token a byte, no file needed (a toy); None reads that of
            `language_model`.
        checkpoint: a public Prismatic, OpenVLA-OFT or VLA-Adapter checkpoint to start from, a file or a folder
            (`load_prismatic`). None reads the encoder's and the language model's own weights; the projector in between
            then starts anew, so trainable must be all.
        words: `encoder`: the words of a dual encoder, in the joint space of its patches; `learned`: word embeddings
            trained from scratch (kind tiny only).
        pointing: patches also carry how well they match the sentence in the encoder's joint space: what a pretrained
            VLM brings along, and a small one has to discover (kind tiny with words=encoder and attention=prefix).
        max_words: longest instruction in words (kind tiny) or prompt in tokens (kind prismatic).
        queries: Q learned action queries behind the prompt.
        attention: `causal` (default of the kind prismatic): as Qwen2 was trained; patches precede the instruction and
            cannot depend on it.
            `prefix` (default of the kind tiny): patches and prompt see one another; queries see all of them and the
            queries before.
        compat: read the states that VLA-Adapter's release reads: one position early (first token and all patches but
            the last; last prompt token and all queries but the last).
        dropout: in the tiny language model.

        trainable: `all` (default of the kind tiny, whose encoder stays frozen all the same); `lora` (default of the
            kind prismatic): adapters on every linear layer, and the queries; `queries`; `nothing`.
        lora_rank, lora_alpha, lora_dropout: as in the papers: 64, 128, 0.

    Raises:
        FoveaError: a field or a combination of fields makes no sense.
    """

    kind: Literal["tiny", "prismatic"] = "tiny"
    encoder: str = ""
    encoder_identity: str | None = None
    encoder_grid: tuple[int, int] | None = None
    feature_width: int | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    cameras: int = 2
    patch_pool: int = 0

    layers: int = 0
    width: int = 0
    heads: int = 0
    kv_heads: int = 0
    hidden: int = 0
    vocabulary: int = 0
    rope_theta: float = 1_000_000.0
    projector_hidden: int = 8704
    language_model: str = QWEN
    tokenizer: str | None = None
    checkpoint: str | None = None
    words: Literal["encoder", "learned"] = "encoder"
    pointing: bool = False
    max_words: int = 0
    queries: int = 64
    attention: str = ""
    compat: bool = False
    dropout: float = 0.0

    trainable: str = ""
    lora_rank: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value in OF_A_KIND.get(self.kind, {}).items():
            setattr(self, name, getattr(self, name) or value)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise FoveaError(
                    f"vlm: expected {name} among {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise FoveaError(f"vlm: expected {name} > 0, got {getattr(self, name)}")
        for name in ("dropout", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise FoveaError(f"vlm: expected {name} in [0, 1), got {getattr(self, name)}")
        if self.feature_width is not None and self.feature_width < 1:
            raise FoveaError(f"vlm: expected feature_width > 0 or None, got {self.feature_width}")
        if self.encoder_grid is not None:
            rows, columns = (int(side) for side in self.encoder_grid)
            self.encoder_grid = (rows, columns)
            check_pool(self.encoder_grid, self.patch_pool)
        if self.width % self.heads or (self.kind == "prismatic" and self.heads % self.kv_heads):
            raise FoveaError(
                "vlm: expected heads to divide width (and kv_heads to divide heads, kind prismatic), "
                f"got width={self.width}, heads={self.heads}, kv_heads={self.kv_heads}"
            )
        self._check_kind()

    def _check_kind(self) -> None:
        if self.pointing and (self.kind, self.words, self.attention) != ("tiny", "encoder", "prefix"):
            raise FoveaError(
                "vlm: expected pointing=true with kind=tiny, words=encoder and attention=prefix only, got "
                f"{self.kind}, {self.words}, {self.attention}: it compares the encoder's patches with its sentences"
            )
        if self.kind == "prismatic":
            return
        if self.compat:
            raise FoveaError(
                "vlm: expected compat=false with kind=tiny, got true: there is no first token to read by mistake"
            )
        if self.trainable == "lora":
            raise FoveaError(
                "vlm: expected trainable=all with kind=tiny, got lora: there is nothing pretrained to adapt"
            )
        if self.width % 4:
            raise FoveaError(f"vlm: expected a width that 4 divides (positions of a grid), got {self.width}")
        if self.checkpoint is not None:
            raise FoveaError(
                "vlm: expected no checkpoint with kind=tiny: public checkpoints are of kind prismatic"
            )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "VLMConfig":
        """Build a preset by name: tiny, full, toy or toy_full.

        Raises:
            FoveaError: no such preset.
        """
        if name not in PRESETS:
            raise FoveaError(f"expected a vlm preset among {', '.join(PRESETS)}, got {name!r}")
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def full(cls, **changes: Any) -> "VLMConfig":
        """The VLM of VLA-Adapter and FocusVLA: DINOv2-L + SigLIP-So400m, Qwen2.5-0.5B, LoRA of rank 64."""
        return cls.preset("full", **changes)

    @classmethod
    def tiny(cls, **changes: Any) -> "VLMConfig":
        """The encoder that ships and a 4-layer transformer, trained from scratch on a CPU."""
        return cls.preset("tiny", **changes)

    @classmethod
    def toy(cls, **changes: Any) -> "VLMConfig":
        """For tests: the preset `tiny` in a few thousand parameters, 16 patches a camera."""
        return cls.preset("toy", **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, for a configuration file."""
        return asdict(self)


def check_pool(grid: tuple[int, int], pool: int) -> tuple[int, int]:
    """The grid after pooling.

    Raises:
        FoveaError: the pool does not divide the grid.
    """
    if grid[0] % pool or grid[1] % pool:
        raise FoveaError(f"vlm: expected patch_pool to divide the grid {grid} of the encoder, got {pool}")
    return grid[0] // pool, grid[1] // pool


OF_A_KIND: dict[str, dict[str, Any]] = {
    "tiny": {
        "encoder": "tiny",
        "patch_pool": 2,
        "layers": 4,
        "width": 192,
        "heads": 6,
        "kv_heads": 6,
        "hidden": 384,
        "vocabulary": 4096,
        "max_words": 24,
        "attention": "prefix",
        "trainable": "all",
    },
    "prismatic": {
        "encoder": "dinov2+siglip",
        "patch_pool": 1,
        "layers": 24,
        "width": 896,
        "heads": 14,
        "kv_heads": 2,
        "hidden": 4864,
        "vocabulary": 151_936,
        "max_words": 256,
        "attention": "causal",
        "trainable": "lora",
    },
}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"kind": "tiny"},
    "full": {"kind": "prismatic"},
    "toy": {"patch_pool": 4, "layers": 2, "width": 32, "heads": 4, "kv_heads": 4, "hidden": 64, "queries": 4},
}
PRESETS["toy_full"] = {
    **PRESETS["full"],
    "encoder": "timm/test_vit2+timm/test_vit",
    "weights": "random",
    "patch_pool": 5,
    "layers": 2,
    "width": 32,
    "heads": 4,
    "hidden": 64,
    "vocabulary": 300,
    "projector_hidden": 48,
    "tokenizer": "bytes",
    "queries": 4,
    "lora_rank": 4,
    "lora_alpha": 8,
}
