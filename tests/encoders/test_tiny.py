"""The tiny encoder: shapes, masks, unknown words, identity, what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fovea.encoders.registry import create_encoder
from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.encoders.words import split_words
from fovea.errors import FoveaError

WORDS = ["basket", "milk", "pick", "the", "up"]


def toy(**changes) -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder(TinyConfig.tiny(**changes), WORDS).freeze()


def save_toy(folder: Path, encoder: TinyEncoder) -> None:
    save_file(
        {k: v.half().contiguous() for k, v in encoder.state_dict().items()}, folder / "tiny.safetensors"
    )
    config = encoder.config.__dict__
    record = {"config": config, "vocabulary": list(encoder.tokenizer.vocabulary), "temperature": 0.05}
    (folder / "tiny.json").write_text(json.dumps(record))


@pytest.mark.parametrize("tap", ["attn_qk", "attn_qq", "out"])
def test_patches_and_words_share_one_space(tap: str) -> None:
    encoder = toy(tap=tap)
    patches = encoder.encode_image(torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8))
    assert patches.values.shape == (2, 256, encoder.width)
    assert patches.mask.all()
    words = encoder.encode_text(["pick up the milk", "milk"])
    assert words.values.shape == (2, encoder.max_words, encoder.width)
    assert words.mask.sum(1).tolist() == [4, 1]
    for unit in (patches.values, words.values[words.mask], encoder.embed_text(["milk"])):
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(unit.shape[:-1]))


def test_taps_read_the_last_attention_without_its_residual_or_the_last_block() -> None:
    picture = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    for tap in ("attn_qk", "out"):
        encoder = toy(tap=tap)
        last, caught = encoder.image.blocks[-1], []
        part = last if tap == "out" else last.out
        part.register_forward_hook(lambda module, args, result, caught=caught: caught.append(result))
        values = encoder.encode_image(picture).values
        image, (result,) = encoder.image, caught
        expected = torch.nn.functional.normalize(image.project(image.norm(result)), dim=-1)
        torch.testing.assert_close(values, expected)


def test_query_query_attention_compares_queries_with_queries() -> None:
    picture = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    expected, encoder = toy(tap="attn_qq").encode_image(picture).values, toy(tap="attn_qk")
    assert not torch.allclose(encoder.encode_image(picture).values, expected, atol=1e-4)
    width, last = encoder.config.tower_width, encoder.image.blocks[-1]
    for part in last.qkv.parameters():
        part.data[width : 2 * width] = part.data[:width]  # keys become queries
    torch.testing.assert_close(encoder.encode_image(picture).values, expected)


def test_any_size_of_picture_is_read() -> None:
    encoder = toy()
    picture = torch.full((1, 3, 224, 200), 130, dtype=torch.uint8)
    small = torch.full((1, 3, 128, 128), 130, dtype=torch.uint8)
    torch.testing.assert_close(encoder.encode_image(picture).values, encoder.encode_image(small).values)


def test_padding_does_not_change_a_sentence() -> None:
    encoder = toy()
    alone = encoder.encode_text(["milk"]).values[0, 0]
    beside = encoder.encode_text(["milk", "pick up the milk up the milk up the milk"]).values[0, 0]
    torch.testing.assert_close(alone, beside)


def test_words_of_training_never_seen_are_read_by_their_letters() -> None:
    encoder = toy()
    words = encoder.encode_text(["pick up the milk-shake, please!", "naïve ケチャップ"])
    assert words.mask.sum(1).tolist() == [6, 2]
    assert torch.isfinite(words.values).all()
    one, other = encoder.embed_text(["zebra"]), encoder.embed_text(["quokka"])
    assert not torch.allclose(one, other)


def test_case_and_punctuation_do_not_matter() -> None:
    assert split_words("Pick up the MILK, and place_it!") == [
        "pick",
        "up",
        "the",
        "milk",
        "and",
        "place",
        "it",
    ]


def test_long_sentences_are_cut() -> None:
    encoder = toy()
    assert encoder.encode_text([" ".join(["milk"] * 40)]).mask.sum() == encoder.max_words


def test_identity_follows_weights_and_tap() -> None:
    assert toy().identity == toy().identity
    assert toy(tap="out").identity != toy(tap="attn_qk").identity
    changed = toy()
    changed.image.norm.bias.data[0] += 1
    assert changed.identity != toy().identity


def test_saved_weights_come_back(tmp_path: Path) -> None:
    save_toy(tmp_path, toy())
    encoder = create_encoder(f"tiny:{tmp_path}")
    assert (encoder.tap, encoder.temperature) == ("out", 0.05)
    assert encoder.identity == create_encoder(f"tiny:{tmp_path}").identity
    assert create_encoder(f"tiny:{tmp_path}", tap="attn_qk").identity != encoder.identity
    picture = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    close = torch.nn.functional.cosine_similarity(
        encoder.encode_image(picture).values, toy().encode_image(picture).values, dim=-1
    )
    assert close.min() > 0.99


def test_missing_or_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FoveaError, match=r"tiny\.safetensors"):
        create_encoder(f"tiny:{tmp_path}")
    save_toy(tmp_path, toy(image_depth=3))
    record = json.loads((tmp_path / "tiny.json").read_text())
    record["config"]["image_depth"] = 2
    (tmp_path / "tiny.json").write_text(json.dumps(record))
    with pytest.raises(FoveaError, match="does not fit"):
        create_encoder(f"tiny:{tmp_path}")


@pytest.mark.parametrize("sentences", ["pick up the milk", ["", "milk"], ["..."], [3]])
def test_what_is_no_list_of_sentences_is_refused(sentences) -> None:
    with pytest.raises(FoveaError):
        toy().encode_text(sentences)


def test_pictures_must_be_bytes_with_channels_second() -> None:
    with pytest.raises(FoveaError, match="uint8"):
        toy().encode_image(torch.zeros(1, 128, 128, 3))
