"""The released sizes, on the meta device: what a graft has to deliver there."""

import torch

from fovea.grafting.full_size import describe, meta_pi05, meta_smolvla
from fovea.grafting.wrapper import Graft, Projector


def test_smolvla_450m_takes_64_tokens_of_960_a_camera_from_512_pixels(tmp_path):
    backbone = meta_smolvla(tmp_path)
    found = describe(backbone)
    assert (found["picture"], found["tokens"], found["width"]) == ([512, 512], 64, 960)
    assert (backbone.side, backbone.width, backbone.tower_shape) == (8, 960, ((32, 32), 768))
    assert 400e6 < found["parameters"] < 500e6


def test_pi05_takes_256_tokens_of_2048_a_camera_from_224_pixels():
    backbone = meta_pi05()
    found = describe(backbone)
    assert (found["picture"], found["tokens"], found["width"]) == ([224, 224], 256, 2048)
    assert (backbone.side, backbone.tower_shape) == (16, ((16, 16), 1152))
    assert 3.2e9 < found["parameters"] < 4.3e9
    assert backbone.dtype == torch.bfloat16
    with torch.device("meta"):
        projector = Projector((16, 16), 384, backbone.side, backbone.width, dtype=backbone.dtype)
        with Graft(backbone.hook, projector):
            tokens = backbone.hook.owner.embed_image(torch.zeros(2, 256, 384))
    assert (tokens.shape, tokens.dtype) == ((2, 256, 2048), torch.bfloat16)
