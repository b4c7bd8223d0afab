"""Words to numbers for the tiny text tower: known words have an embedding, any word has character pieces.

Shape letters: B batch, M word positions, P pieces of a word.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fovea.errors import FoveaError

_WORD = re.compile(r"[^\W_]+")
_PIECE_LENGTH = 3
_MAX_PIECES = 12
PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2


def split_words(sentence: str) -> list[str]:
    """Lower-case words of a sentence; punctuation, hyphens and underscores separate words."""
    return _WORD.findall(sentence.lower())


@lru_cache(maxsize=65536)
def word_pieces(word: str, buckets: int) -> tuple[int, ...]:
    """Hash the character trigrams of "<word>" into 1..buckets (at most 12; 0 is padding).

    crc32 rather than `hash`: the same in every process.
    """
    marked = f"<{word}>"
    grams = [marked[i : i + _PIECE_LENGTH] for i in range(max(1, len(marked) - _PIECE_LENGTH + 1))]
    return tuple(zlib.crc32(gram.encode()) % buckets + 1 for gram in grams[:_MAX_PIECES])


@dataclass(frozen=True)
class WordIds:
    """Tokenised sentences.

    Attributes:
        words: (B, M) long; 0 padding, 1 unknown, the rest indices into the vocabulary + 2.
        pieces: (B, M, P) long; hashed character pieces, 0 padding.
        mask: (B, M) bool, True on words.
    """

    words: Tensor
    pieces: Tensor
    mask: Tensor


class WordTokenizer:
    """One token a word.

    A word is the sum of its own embedding (if the vocabulary has it) and the mean of its hashed character
    pieces, as in fastText (Bojanowski et al. 2017, arXiv:1607.04606): a plural, a typing error or a word that
    training never saw lands near its relatives instead of failing.

    Args:
        vocabulary: the known words, in the order of their embeddings.
        buckets: number of hash buckets of the character pieces.
        max_words: M; longer sentences are cut after M words, as CLIP cuts after 77 tokens.
    """

    def __init__(self, vocabulary: Sequence[str], buckets: int, max_words: int) -> None:
        self.vocabulary = tuple(vocabulary)
        self.buckets = buckets
        self.max_words = max_words
        self._index = {word: i + FIRST_WORD for i, word in enumerate(self.vocabulary)}

    def __call__(self, sentences: Sequence[str]) -> WordIds:
        """Tokenise sentences.

        Raises:
            FoveaError: a sentence contains no word at all.
        """
        shape = (len(sentences), self.max_words)
        words = torch.zeros(shape, dtype=torch.long)
        pieces = torch.zeros(*shape, _MAX_PIECES, dtype=torch.long)
        for row, sentence in enumerate(sentences):
            found = split_words(sentence)[: self.max_words]
            if not found:
                raise FoveaError(
                    f'expected a sentence with words such as "pick up the milk", got {sentence!r}'
                )
            for column, word in enumerate(found):
                words[row, column] = self._index.get(word, UNKNOWN)
                ids = word_pieces(word, self.buckets)
                pieces[row, column, : len(ids)] = torch.tensor(ids)
        return WordIds(words, pieces, words != PADDING)
