"""A policy whose pictures go through OpenVINO: the same actions, and no doubt about the encoder it was trained with."""

import pytest
import torch
from toy_batches import frames

from fovea.data.compiled import compiled_encoder
from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy


def test_fp32_acts_as_torch_does(make_policy, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path))
    on_torch, compiled = make_policy(), make_policy(encoder_backend="openvino-fp32")
    assert compiled.picture_encoder is not compiled.encoder
    assert compiled.config.encoder_identity == on_torch.config.encoder_identity
    for seed in range(4):
        expected, found = (policy.select_action(frames(2, seed)) for policy in (on_torch, compiled))
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_compiled_copy_of_another_encoder_is_refused(make_policy, encoder, tmp_path):
    config = make_policy().config
    copy = compiled_encoder(encoder, "openvino-fp32", root=tmp_path)
    assert EFVLAPolicy(config, encoder=copy).picture_encoder is copy
    torch.manual_seed(5)
    other = TinyEncoder(TinyConfig.tiny(image_size=32), ["milk"]).freeze()
    with pytest.raises(FoveaError, match="the encoder this policy was trained with"):
        EFVLAPolicy(config, encoder=compiled_encoder(other, "openvino-fp32", root=tmp_path))


def test_int8_that_is_not_calibrated_says_how(make_policy, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path))
    with pytest.raises(FoveaError, match="fovea compile --encoder"):
        make_policy(encoder_backend="openvino-int8").select_action(frames(1))
    with pytest.raises(FoveaError, match="torch, openvino-fp32, openvino-bf16, openvino-int8"):
        EFVLAConfig.tiny(encoder_backend="onnx")


def test_vision_that_is_trained_has_no_compiled_copy(make_policy):
    with pytest.raises(FoveaError, match="encoder_backend=torch with vision=finetune"):
        make_policy(vision="finetune", encoder_backend="openvino-fp32")
    policy = make_policy(vision="finetune")
    policy.config.encoder_backend = "openvino-fp32"  # as `fovea eval --encoder_backend` changes it
    with pytest.raises(FoveaError, match="what it trained is no frozen encoder"):
        _ = policy.picture_encoder
