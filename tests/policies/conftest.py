"""A toy EF-VLA over a random encoder."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from toy_batches import TASKS

from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy


@pytest.fixture
def encoder() -> TinyEncoder:
    torch.manual_seed(0)
    words = sorted({word for task in TASKS for word in task.split()})
    encoder = TinyEncoder(TinyConfig.tiny(image_size=32), words)
    encoder.freeze()
    return encoder


@pytest.fixture
def make_policy(encoder: TinyEncoder) -> Callable[..., EFVLAPolicy]:
    def build(**changes: Any) -> EFVLAPolicy:
        torch.manual_seed(1)
        return EFVLAPolicy(EFVLAConfig.tiny(**changes), encoder=encoder)

    return build
