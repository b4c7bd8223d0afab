"""SmolVLA in sizes of our own: two that a CPU can train, and the released one (with random weights).

LeRobot builds SmolVLA from the configuration, the tokenizer and the processor of its vision-language model, which it
looks up by name. Here they are a folder of a few JSON files that `write_vlm` makes, so nothing is downloaded.
"""

import contextlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fovea.data import keys
from fovea.errors import FoveaError
from fovea.nn.onednn import use_onednn
from fovea.sim.suites import suggest

if TYPE_CHECKING:
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

VLM = "vlm"  # folder beside a checkpoint
_BASIC = ("<pad>", "<unk>", "<bos>", "<eos>")
_SPECIAL = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    "video_token": "<video>",
}


@dataclass(frozen=True)
class SmolVLASizes:
    """Sizes of one SmolVLA.

    Attributes:
        image_size, patch_size: in pixels.
        vision_width, vision_layers, vision_heads: of the vision tower.
        shuffle: so many patches by so many become one token.
        width, layers, heads, kv_heads, mlp: of the language model; heads have `head_dim` numbers.
        expert: width of the action expert, as a share of the language model's.
        chunk: actions that are predicted at once.
        vocabulary: rows of the word table, at least; more if the sentences have more words.
        padded: numbers that states and actions are padded to.
    """

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    shuffle: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    head_dim: int = 64
    expert: float = 0.75
    chunk: int = 16
    vocabulary: int = 256
    padded: int = 8

    @property
    def side(self) -> int:
        """Tokens of a camera: side x side."""
        return self.image_size // self.patch_size // self.shuffle


SIZES = {
    "smolvla-small": SmolVLASizes(128, 16, 96, 4, 3, 1, 128, 4, 2, 1, 352),
    "smolvla-base": SmolVLASizes(128, 16, 160, 5, 5, 1, 192, 6, 3, 1, 512),
    "smolvla-450m": SmolVLASizes(
        512, 16, 768, 12, 12, 4, 960, 16, 15, 5, 2560, chunk=50, vocabulary=49280, padded=32
    ),
}


def sizes_of(name: str) -> SmolVLASizes:
    """Sizes by name.

    Raises:
        FoveaError: no such name.
    """
    if name not in SIZES:
        raise FoveaError(f"unknown size {name!r}. {suggest(name, SIZES)}")
    return SIZES[name]


def write_vlm(folder: Path, sizes: SmolVLASizes, sentences: Iterable[str]) -> Path:
    """Write the folder that LeRobot reads in place of a vision-language model's name.

    Args:
        folder: made if missing.
        sentences: instructions; their words are the vocabulary, others will be read as unknown.

    Returns:
        `folder`.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    words = sorted({word for sentence in sentences for word in re.findall(r"\w+|[^\w\s]", sentence.lower())})
    vocabulary = {word: number for number, word in enumerate([*_BASIC, *_SPECIAL.values(), "\n", *words])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=_SPECIAL,
        padding_side="right",
    )
    shared = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = SmolVLMConfig(
        image_token_id=vocabulary["<image>"],
        scale_factor=sizes.shuffle,
        tie_word_embeddings=False,
        pad_token_id=0,
        vision_config={
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": max(sizes.vocabulary, len(vocabulary)),
            "hidden_size": sizes.width,
            "intermediate_size": sizes.mlp,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "max_position_embeddings": 2048,
            **shared,
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=sizes.side**2
    )
    processor.save_pretrained(folder)
    config.save_pretrained(folder)
    return folder


def smolvla_config(
    sizes: SmolVLASizes,
    vlm: Path,
    *,
    cameras: Sequence[str] = keys.IMAGES,
    picture: tuple[int, int] = (128, 128),
    state_size: int = 8,
    action_size: int = 7,
) -> "SmolVLAConfig":
    """LeRobot's configuration of a SmolVLA of these sizes, all of it to be trained, on the CPU."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

    config = SmolVLAConfig(
        device="cpu",
        vlm_model_name=str(vlm),
        load_vlm_weights=False,
        resize_imgs_with_padding=(sizes.image_size, sizes.image_size),
        num_vlm_layers=0,
        expert_width_multiplier=sizes.expert,
        chunk_size=sizes.chunk,
        n_action_steps=max(1, sizes.chunk // 2),
        max_state_dim=max(sizes.padded, state_size),
        max_action_dim=max(sizes.padded, action_size),
        train_expert_only=False,
        freeze_vision_encoder=False,
        push_to_hub=False,
    )
    visual = {key: PolicyFeature(FeatureType.VISUAL, (3, *picture)) for key in cameras}
    config.input_features = {**visual, keys.STATE: PolicyFeature(FeatureType.STATE, (state_size,))}
    config.output_features = {keys.ACTION: PolicyFeature(FeatureType.ACTION, (action_size,))}
    return config


def build_smolvla(config: "SmolVLAConfig", seed: int = 0) -> "SmolVLAPolicy":
    """A SmolVLA with random weights drawn from `seed`.

    LeRobot freezes the language model's last layer, which is no loss to one that was pretrained; here it is trained.
    """
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
        torch.manual_seed(seed)
        policy = SmolVLAPolicy(config)
    if not config.train_expert_only:
        text: Any = policy.model.vlm_with_expert.get_vlm_model().text_model
        text.layers.requires_grad_(True)
    return use_onednn(policy)


def statistics(datasets: Sequence[Any], *, floor: float = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Mean, deviation and range of states and actions over all rows of some data sets, for LeRobot's processors.

    Args:
        floor: no deviation is smaller than this share of its number's range. A number that hardly ever moves (the
            wrist's rotation) otherwise lies many deviations out when it does, and decides the squared error alone.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, name in ((keys.STATE, "state"), (keys.ACTION, "action")):
        rows = torch.cat([torch.from_numpy(getattr(dataset, name)) for dataset in datasets]).double()
        numbers: Mapping[str, torch.Tensor] = {
            "mean": rows.mean(0),
            "std": torch.maximum(rows.std(0), floor * (rows.amax(0) - rows.amin(0))).clamp(min=1e-6),
            "min": rows.amin(0),
            "max": rows.amax(0),
            "q01": rows.quantile(0.01, 0),
            "q99": rows.quantile(0.99, 0),
        }
        found[key] = {which: value.float() for which, value in numbers.items()}
    return found
