"""What a token of the sequence may see, and which states the policy reads."""

import torch

from fovea.vlm.sequence import Sequence


def sequence(words: list[list[bool]], patches: int, queries: int, head: int = 1, mask=None) -> Sequence:
    real = torch.tensor(words)
    batch, length = real.shape
    return Sequence.join(
        torch.zeros(batch, length, 2),
        real,
        torch.zeros(batch, patches, 2),
        mask,
        torch.zeros(queries, 2),
        head,
    )


def test_causal_looks_back_and_prefix_looks_everywhere_but_at_queries():
    causal = sequence([[True, True, True]], patches=2, queries=2).attention_mask("causal")[0, 0]
    assert torch.equal(causal, torch.ones(7, 7).tril().bool())
    prefix = sequence([[True, True, True]], patches=2, queries=2).attention_mask("prefix")[0, 0]
    assert prefix[:, :5].all()
    assert not prefix[:5, 5:].any()
    assert prefix[5:, 5:].tolist() == [[True, False], [True, True]]


def test_nobody_sees_padding_and_padding_shifts_no_place():
    missing = torch.tensor([[True, False], [True, True]])
    laid = sequence([[True, True, False], [True, True, True]], patches=2, queries=2, mask=missing)
    for attention in ("causal", "prefix"):
        seen = laid.attention_mask(attention)[0, 0]
        for padding in (2, 4):
            others = [row for row in range(7) if row != padding]
            assert not seen[others, padding].any()
        assert seen.any(-1).all()  # no softmax over nothing
    assert laid.positions[0].tolist() == [0, 1, 1, 2, 2, 3, 4]
    assert laid.positions[1].tolist() == list(range(7))


def test_compat_reads_one_position_early_past_the_padding_of_a_short_prompt():
    laid = sequence([[True, True, True, False], [True, True, True, True]], patches=3, queries=2)
    hidden = torch.arange(9.0).expand(2, 9)[..., None]
    assert laid.vision_states(hidden)[0, :, 0].tolist() == [1, 2, 3]
    assert laid.query_states(hidden)[0, :, 0].tolist() == [7, 8]
    assert laid.vision_states(hidden, compat=True)[0, :, 0].tolist() == [0, 1, 2]
    early = laid.query_states(hidden, compat=True)[..., 0].tolist()
    assert early == [[5, 7], [6, 7]]  # the last real token of the prompt, then all queries but the last


def test_compat_without_any_word_behind_the_patches_reads_the_last_patch():
    laid = sequence([[True]], patches=3, queries=2)
    hidden = torch.arange(6.0)[None, :, None]
    assert laid.query_states(hidden, compat=True)[0, :, 0].tolist() == [3, 4]
