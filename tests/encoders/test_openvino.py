"""Encoders on OpenVINO: the features of the original, kept once, never mixed up with it."""

import json
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import open_clip
import pytest
import torch

from fovea.data.compiled import compiled_encoder, compiled_folder, likeness
from fovea.encoders import create_encoder, openvino
from fovea.encoders.clip import ClipEncoder
from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.errors import FoveaError

VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def toy(seed: int = 0) -> TinyEncoder:
    torch.manual_seed(seed)
    return TinyEncoder(TinyConfig.tiny(image_size=32), ["pick", "milk"]).freeze()


def pictures(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", ["tiny", "clip"])
def test_fp32_gives_the_features_of_the_original(kind, root):
    torch.manual_seed(0)
    clip = ClipEncoder(open_clip.CLIP(32, VISION, TEXT, quick_gelu=True), name="toy").freeze()
    encoder = clip if kind == "clip" else toy()
    copy = compiled_encoder(encoder, "openvino-fp32", root=root)
    for count, side in ((1, 32), (5, 48)):  # other batches and sizes than it was exported with
        seen = pictures(count, side)
        expected, found = encoder.encode_image(seen), copy.encode_image(seen)
        assert torch.allclose(found.values, expected.values, atol=1e-5)
        assert found.mask.all()
        assert found.values.shape == (count, 16, 32)
    sentences = ["pick up the milk"]
    assert torch.equal(copy.encode_text(sentences).values, encoder.encode_text(sentences).values)
    assert copy.identity != encoder.identity
    assert openvino.stands_for(copy) == openvino.stands_for(encoder) == encoder.identity


def test_bfloat16_is_near_and_another_encoder(root):
    encoder = toy()
    exact, near = (compiled_encoder(encoder, f"openvino-{kind}", root=root) for kind in ("fp32", "bf16"))
    alike = likeness(encoder, near, pictures(4), ["pick milk"])
    assert alike["cosine"] > 0.999
    assert near.identity != exact.identity


def test_int8_of_the_shipped_encoder_points_where_the_original_does(root):
    encoder = create_encoder("tiny")
    with pytest.raises(FoveaError, match="fovea compile --encoder tiny"):
        compiled_encoder(encoder, "openvino-int8", root=root)
    grid = torch.linspace(0, 255, 128)
    smooth = torch.stack(
        [torch.stack([grid[None] * s + grid[:, None] * (1 - s)] * 3) for s in (0.1, 0.5, 0.9)]
    )
    blocks = pictures(3, 8).float().repeat_interleave(16, -1).repeat_interleave(16, -2)
    seen = torch.cat([smooth, blocks]).to(torch.uint8)
    copy = compiled_encoder(encoder, "openvino-int8", pictures=seen, root=root)
    alike = likeness(encoder, copy, seen, ["pick up the alphabet soup and place it in the basket"])
    assert alike["cosine"] > 0.98
    assert alike["pointing_within_one"] > 0.8
    same = likeness(encoder, encoder, seen, ["pick up the milk"])
    assert same["pointing_agreement"] == same["pointing_within_one"] == 1
    again = compiled_encoder(
        create_encoder("tiny"), "openvino-int8", root=root
    )  # from the cache: no pictures
    assert again.identity == copy.identity != compiled_encoder(encoder, "openvino-fp32", root=root).identity
    about = json.loads((compiled_folder(encoder, "openvino-int8", root) / "compiled.json").read_text())
    assert about["calibration"]["pictures"] == [6, 3, 128, 128]


def test_a_damaged_file_is_made_again(root):
    encoder = toy(1)
    compiled_encoder(encoder, "openvino-fp32", root=root)
    weights = compiled_folder(encoder, "openvino-fp32", root) / "picture.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100] + b"\x00" * 100)
    copy = compiled_encoder(encoder, "openvino-fp32", root=root)
    assert weights.read_bytes() == whole
    seen = pictures(2)
    assert torch.allclose(copy.encode_image(seen).values, encoder.encode_image(seen).values, atol=1e-5)
    other = compiled_encoder(toy(2), "openvino-fp32", root=root)  # other weights, another copy
    assert not torch.allclose(other.encode_image(seen).values, copy.encode_image(seen).values, atol=1e-2)


def test_several_threads_may_encode_at_once(root):
    compiled = compiled_encoder(toy(), "openvino-fp32", root=root)
    seen = [pictures(3, seed=i) for i in range(8)]
    expected = [compiled.encode_image(one).values for one in seen]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: compiled.encode_image(one).values, seen))
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert deepcopy([compiled])[0] is compiled


def test_what_is_missing_is_named(root, monkeypatch):
    with pytest.raises(FoveaError, match="torch, openvino-fp32, openvino-bf16, openvino-int8"):
        compiled_encoder(toy(), "onnx", root=root)
    assert compiled_encoder(encoder := toy(), "torch") is encoder
    find = openvino.importlib.util.find_spec
    hidden = lambda name, *a: None if name == "nncf" else find(name, *a)  # noqa: E731
    monkeypatch.setattr(openvino.importlib.util, "find_spec", hidden)
    with pytest.raises(FoveaError, match=r"needs nncf: install the extra int8"):
        compiled_encoder(toy(), "openvino-int8", pictures=pictures(1), root=root)
