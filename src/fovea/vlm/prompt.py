"""The prompt of VLA-Adapter and its tokens.

Shape letters: B batch, P tokens of the longest prompt.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from fovea.encoders.files import fetch
from fovea.errors import FoveaError

SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_TURNS = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
TOKENIZER_FILE = "tokenizer.json"

Tokenize = Callable[[str], list[int]]


def prompt_text(instruction: str) -> str:
    """Qwen's chat template with its default system text, up to where the assistant would answer.

    Raises:
        FoveaError: the instruction is empty.
    """
    if not instruction.strip():
        raise FoveaError(f"expected an instruction with at least one word, got {instruction!r}")
    return _TURNS.format(SYSTEM, f"What action should the robot take to {instruction.strip().lower()}?")


def pad_prompts(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids -> (B, P) padded with 0 on the right, and the mask (B, P) that is True on tokens."""
    longest = max(len(ids) for ids in prompts)
    padded = [ids + [0] * (longest - len(ids)) for ids in prompts]
    lengths = torch.tensor([len(ids) for ids in prompts], device=device)
    return torch.tensor(padded, device=device), torch.arange(longest, device=device) < lengths[:, None]


def load_tokenizer(source: str, vocabulary: int) -> Tokenize:
    """Build the tokenizer of a language model.

    Args:
        source: `bytes` (one token a byte), a tokenizer.json, a folder that holds one, or a Hugging Face repository.
        vocabulary: rows of the token embedding.

    Raises:
        FoveaError: the file is missing (with its name and where it lives), no tokenizer, or another vocabulary.
    """
    if source == "bytes":
        if vocabulary < 256:
            raise FoveaError(f"expected a vocabulary of 256 or more for tokenizer=bytes, got {vocabulary}")
        return lambda text: list(text.encode())
    path = find_file(source, TOKENIZER_FILE, "the tokenizer's files", "vlm.tokenizer=<its path>")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FoveaError(f"expected JSON in {path}: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise FoveaError(f"expected a Hugging Face tokenizer in {path}, got something else")
    tokenizer = Tokenizer.from_str(json.dumps(record))
    if tokenizer.get_vocab_size() > vocabulary:
        raise FoveaError(
            f"expected a tokenizer of at most {vocabulary} tokens (vlm.vocabulary), got {path} with "
            f"{tokenizer.get_vocab_size()}: it belongs to another model"
        )
    if tokenizer.token_to_id("<|im_start|>") is None:
        raise FoveaError(f"expected Qwen's tokenizer, with <|im_start|> among its tokens, got {path}")
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def find_file(source: str, file: str, what: str, option: str) -> Path:
    """A file given by its own path, in a folder, or in a Hugging Face repository.

    Raises:
        FoveaError: it is nowhere; the message names the file, the repository and the option that takes a path.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / file).is_file():
            return path / file
        raise FoveaError(f"expected {file} in {path}, found {sorted(p.name for p in path.iterdir())[:8]}")
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise FoveaError(
            f"expected {file}, a folder that holds it, or a Hugging Face repository, found none at {source}"
        )
    return fetch(what, source, file, f"set {option}, a path of the file or of its folder")
