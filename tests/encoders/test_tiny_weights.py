"""The weights that ship: small enough, and on a picture of either camera they point at what they are told.

The pictures (libero_object, positions drawn anew, our own render) and their segmentation are in
tests/goldens/libero_object_pictures.npz; training never saw them.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from fovea.data.scene_corpus import coverage
from fovea.encoders.base import Encoder
from fovea.encoders.registry import create_encoder
from fovea.encoders.tiny import WEIGHTS

PICTURES = Path(__file__).parents[1] / "goldens" / "libero_object_pictures.npz"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return create_encoder("tiny")


def test_the_weights_stay_below_ten_megabytes() -> None:
    assert (WEIGHTS / "tiny.safetensors").stat().st_size < 10e6


@pytest.mark.parametrize("form", ["pick the {} and place it in the basket", "{}", "Where is the {}?"])
def test_sentences_point_at_their_objects(encoder: Encoder, form: str) -> None:
    with np.load(PICTURES, allow_pickle=False) as file:
        images, labels, names = file["images"], file["labels"], file["names"]
    cover = torch.from_numpy(coverage(labels, len(names)))  # (2, 256, K)
    patches = encoder.encode_image(torch.from_numpy(images).permute(0, 3, 1, 2)).values
    sentences = [form.format(str(name).replace("_", " ")) for name in names]
    best = torch.einsum("bnd,kd->bnk", patches, encoder.embed_text(sentences)).argmax(1, keepdim=True)
    on_object = cover.gather(1, best)[:, 0] >= 0.25
    shown = (cover.sum(1) >= 1) & (cover.max(1).values >= 0.5)
    assert shown.sum() >= 8
    assert on_object[shown].float().mean() > 0.9


def test_every_word_of_an_instruction_points_at_the_object_it_belongs_to(encoder: Encoder) -> None:
    with np.load(PICTURES, allow_pickle=False) as file:
        images, labels, names = file["images"], file["labels"], list(file["names"])
    cover = coverage(labels, len(names))[0]
    kind = next(k for k in cover.sum(0).argsort()[::-1] if names[k] != "basket")
    words = encoder.encode_text([f"pick up the {names[kind].replace('_', ' ')} and place it in the basket"])
    patches = encoder.encode_image(torch.from_numpy(images[:1]).permute(0, 3, 1, 2)).values[0]
    best = (words.values[0][words.mask[0]] @ patches.T).argmax(-1).numpy()
    own, basket = cover[best, kind] >= 0.25, cover[best, names.index("basket")] >= 0.25
    assert own[:-3].all()
    assert basket[-3:].all()
