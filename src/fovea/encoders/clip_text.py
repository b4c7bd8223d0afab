"""A CLIP's text tower: sentences to token ids, which of them are words, and every position's feature.

Shape letters: B batch, L text positions, D joint width.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from fovea.errors import FoveaError

Encode = Callable[[list[str]], Tensor]
CLIP_VOCABULARY = (
    49408  # of CLIP's byte-pair encoding; start and end are its last two ids, 0 is padding (and "!")
)


class ClipTokenizer:
    """Sentences -> ids (B, L), and which of them are words: not start, end, separators or padding.

    Args:
        load: gives the encoding function and the ids that are no words; called at first use, so that pictures can
            be encoded on a machine that lacks the tokenizer.
    """

    def __init__(self, load: Callable[[], tuple[Encode, frozenset[int]]]) -> None:
        self._load = load

    @cached_property
    def _loaded(self) -> tuple[Encode, frozenset[int]]:
        return self._load()

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        return self._loaded[0](list(sentences))

    def words(self, ids: Tensor) -> Tensor:
        """(B, L) True on words."""
        return ~torch.isin(ids, torch.tensor(sorted(self._loaded[1]), device=ids.device))


def clip_special(vocabulary: int) -> frozenset[int]:
    """Padding, start and end of CLIP's own encoding with `vocabulary` ids."""
    return frozenset((0, vocabulary - 2, vocabulary - 1))


def own_tokenizer(
    vocabulary: int, length: int, start: int | None = None, end: int | None = None
) -> ClipTokenizer:
    """CLIP's byte-pair encoding, for a text tower that was made for it; another vocabulary knows token ids only.

    Args:
        start, end: ids that mark a sentence's ends; the last two of the vocabulary where not given.
    """
    first, last = vocabulary - 2 if start is None else start, vocabulary - 1 if end is None else end

    def refuse(sentences: list[str]) -> Tensor:
        raise FoveaError(
            f"expected a CLIP with its vocabulary of {CLIP_VOCABULARY} to read sentences, got one of "
            f"{vocabulary}; give token ids under observation.language.tokens"
        )

    def load() -> tuple[Encode, frozenset[int]]:
        encode = SimpleTokenizer(context_length=length) if vocabulary == CLIP_VOCABULARY else refuse
        return encode, frozenset((0, first, last))

    return ClipTokenizer(load)


def given_tokenizer(encode: Encode, vocabulary: int) -> ClipTokenizer:
    """A function as tokenizer, whose ids follow CLIP's layout."""
    return ClipTokenizer(lambda: (encode, clip_special(vocabulary)))


def named_tokenizer(text: dict[str, Any], folder: Path | None) -> ClipTokenizer:
    """The tokenizer that an open_clip configuration names, from `folder` if it lies there, else from the hub.

    Args:
        text: `text_cfg` of open_clip, with `hf_tokenizer_name`.
        folder: where the weights came from, if from this machine.
    """
    return ClipTokenizer(partial(_load_named, text, folder))


def _load_named(text: dict[str, Any], folder: Path | None) -> tuple[Encode, frozenset[int]]:
    name = str(text["hf_tokenizer_name"])
    local = folder is not None and any(
        (folder / file).is_file() for file in ("tokenizer.json", "spiece.model")
    )
    source, length = str(folder) if local else name, text.get("context_length", 77)
    try:
        tokenizer = HFTokenizer(source, context_length=length, **text.get("tokenizer_kwargs", {}))
    except (OSError, ValueError, ImportError) as error:
        raise FoveaError(
            f"the words of this encoder need a tokenizer that is not on this machine and cannot be downloaded: "
            f"tokenizer.json and tokenizer_config.json of https://huggingface.co/{name} are wanted. Put them "
            f"beside the weights, and use the encoder <model>//<that folder>. ({type(error).__name__})"
        ) from error
    own: Any = tokenizer.tokenizer
    special = set(own.all_special_ids) - {own.unk_token_id}
    return tokenizer, frozenset(special | ({0} if tokenizer.strip_sep_token else set()))


def text_size(model: Any, length: int = 77) -> tuple[int, int]:
    """Ids in the vocabulary and text positions; `length`: positions that open_clip gives to towers of transformers."""
    text = text_tower(model)
    if isinstance(text, HFTextEncoder):
        return text.vocab_size, length
    return text.token_embedding.num_embeddings, model.context_length


def text_tower(model: Any) -> Any:
    """The part of an open_clip model that holds the text tower."""
    return model.text if hasattr(model, "text") else model


def encode_positions(model: Any, ids: Tensor) -> Tensor:
    """Token ids (B, L) -> every position (B, L, D): the last norm and the projection on each."""
    text = text_tower(model)
    if isinstance(text, HFTextEncoder):
        real = (ids != text.config.pad_token_id).long()
        return text.proj(text.transformer(input_ids=ids, attention_mask=real).last_hidden_state)
    if text is model:
        x, mask = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]], model.attn_mask
        mask = None if mask is None else mask[: ids.shape[1], : ids.shape[1]]
    else:
        x, mask = text._embeds(ids)
        if mask is not None and mask.ndim == 2:
            mask = mask[: x.shape[1], : x.shape[1]]
    x = text.ln_final(text.transformer(x, attn_mask=mask)[:, : ids.shape[1]])  # CoCa appends a class token
    projection = text.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def joint_width(model: Any) -> int:
    """D."""
    text = text_tower(model)
    if isinstance(text, HFTextEncoder):
        return text.output_dim
    projection = text.text_projection
    if projection is None:
        return text.ln_final.weight.shape[0]
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
