"""The sequence that a language model reads: [first token] patches, the rest of the prompt, action queries.

Shape letters: B batch, H tokens before the patches, M patches, P further tokens of the prompt, Q action queries,
S = H + M + P + Q, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequence:
    """Embeddings of a batch and where its parts are.

    Attributes:
        embeddings: (B, S, D).
        valid: (B, S) bool, False on padding of the prompt and on patches that do not exist.
        head: H.
        patches: M.
        queries: Q.
    """

    embeddings: Tensor
    valid: Tensor
    head: int
    patches: int
    queries: int

    @classmethod
    def join(
        cls, prompt: Tensor, words: Tensor, patches: Tensor, mask: Tensor | None, queries: Tensor, head: int
    ) -> "Sequence":
        """Lay out a batch.

        Args:
            prompt: (B, H + P, D) embeddings of the prompt; the first `head` of them come before the patches.
            words: (B, H + P) bool, False on padding.
            patches: (B, M, D).
            mask: (B, M) bool, or None where all patches exist.
            queries: (Q, D).
        """
        batch = len(patches)
        exist = words.new_ones(patches.shape[:2]) if mask is None else mask
        parts = [prompt[:, :head], patches, prompt[:, head:], queries.to(patches.dtype).expand(batch, -1, -1)]
        valid = [words[:, :head], exist, words[:, head:], words.new_ones(batch, len(queries))]
        return cls(torch.cat(parts, 1), torch.cat(valid, 1), head, patches.shape[1], len(queries))

    @property
    def positions(self) -> Tensor:
        """(B, S) long: places counted over real tokens, so padding shifts nothing."""
        return (self.valid.long().cumsum(1) - 1).clamp(min=0)

    def attention_mask(self, attention: str) -> Tensor:
        """(B, 1, S, S) bool, True where a token (second last axis) sees another (last axis): `causal` or `prefix`.

        Non-obvious: padding sees itself, so that no row of the softmax is empty; nothing else sees padding.
        """
        length = self.valid.shape[1]
        place = torch.arange(length, device=self.valid.device)
        sees = place[:, None] >= place
        if attention == "prefix":
            sees = sees | (place < length - self.queries)
        alone = place[:, None] == place
        return ((sees & self.valid[:, None, :]) | alone)[:, None]

    def vision_states(self, hidden: Tensor, compat: bool = False) -> Tensor:
        """What belongs to the patches (B, M, ...) in (B, S, ...); `compat` reads a place early, as VLA-Adapter does."""
        start = self.head - compat
        return hidden[:, start : start + self.patches]

    def query_states(self, hidden: Tensor, compat: bool = False) -> Tensor:
        """States of the queries (B, Q, D); `compat`: the last real prompt token, then all queries but the last."""
        first = hidden.shape[1] - self.queries
        if not compat:
            return hidden[:, first:]
        # The last real token before the queries: a shorter prompt ends in padding, which nobody should read.
        place = torch.arange(first, device=hidden.device)
        last = (place * self.valid[:, :first]).argmax(1)
        return torch.cat([hidden[torch.arange(len(hidden)), last][:, None], hidden[:, first:-1]], dim=1)
