"""Configurations that nobody would write by hand, good and bad, and one step with each.

A kind of policy joins with one entry in `KINDS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from toy_batches import TASKS, frames, windows

from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.focus_vla.modeling_focus_vla import FocusVLAPolicy
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy

COUNTS = (-1, 0, 1, 2, 3, 4, 6, 7)
WIDTHS = (-8, 0, 1, 7, 8, 16, 24, 32)
SHARES = (-0.1, 0.0, 0.3, 0.999, 1.0, 1.5, math.nan, math.inf)
AMOUNTS = (-1.0, 0.0, 0.05, 1.0, math.nan, math.inf)
YES_NO = (True, False)


@dataclass(frozen=True)
class Kind:
    """Fields with the values to draw from, and how to build a policy and a training batch."""

    fields: dict[str, tuple[Any, ...]]
    configure: Callable[..., Any]
    build: Callable[..., Any]
    batch: Callable[[Any], dict[str, Any]]

    def changes(self) -> st.SearchStrategy[dict[str, Any]]:
        """One to six fields with values, good or bad."""
        names = st.lists(st.sampled_from(sorted(self.fields)), min_size=1, max_size=6, unique=True)
        return names.flatmap(
            lambda chosen: st.fixed_dictionaries(
                {name: st.sampled_from(self.fields[name]) for name in chosen}
            )
        )


EF_VLA: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("n_obs_steps", "chunk_size", "n_action_steps", "readouts", "pooling_blocks"), COUNTS),
    **dict.fromkeys(("pooling_heads", "n_heads", "n_layers"), COUNTS),
    **dict.fromkeys(("text_width", "vision_width", "proprio_width", "proprio_hidden", "dim_model"), WIDTHS),
    "value_position_width": WIDTHS,
    **dict.fromkeys(("value_content_dropout", "text_dropout", "dropout"), SHARES),
    **dict.fromkeys(
        ("proprio_noise", "gripper_loss_weight", "temporal_ensemble_coeff", "mlp_ratio"), AMOUNTS
    ),
    **dict.fromkeys(("use_text_pooling", "use_proprio", "final_norm"), YES_NO),
    "temperature": (None, *AMOUNTS),
    "word_positions": (None, *COUNTS),
    "fusion": ("early", "late", "mixed"),
    "value_positions": ("none", "sincos1d", "sincos2d", "learned"),
    "value_join": ("add", "concat", "sum"),
    "state_layout": ("axis_angle", "as_is", "quaternion"),
    "pooling_style": ("pre_ln", "otter", "post_ln"),
    "time_positions": ("learned", "rotary", "none"),
    "action_space": ("env", "se3_relative", "joints"),
    "gripper_loss": ("l1", "bce", "l2"),
    "temporal_ensemble": ("none", "newest", "oldest", "mean"),
}
VLM: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("n_obs_steps", "chunk_size", "n_action_steps", "n_heads", "extra_width"), COUNTS),
    "dim_model": (None, *WIDTHS),
    "top_k": (None, *COUNTS),
    "attention": ("mixed", "cascaded", "parallel", "early"),
    "separate_projections": YES_NO,
    "rotary": ("none", "true", "compat", "learned"),
    "gate": ("none", "scalar", "head", "element", "vector"),
    "top_k_scope": ("query", "shared", "camera", "head"),
    "representation": ("vlm", "ds", "vlm+ds", "clip"),
    "pool_vision": YES_NO,
    "chunk_queries": ("learned", "zeros", "ones"),
    "states_from": ("vlm", "file"),
}


def toy_encoder() -> TinyEncoder:
    torch.manual_seed(0)
    encoder = TinyEncoder(
        TinyConfig.tiny(image_size=32), sorted({word for task in TASKS for word in task.split()})
    )
    encoder.freeze()
    return encoder


def chunks(policy: Any) -> dict[str, Any]:
    """Single frames with the chunk of actions that follows."""
    batch = frames(2)
    batch["action"] = torch.rand(2, policy.config.chunk_size, 7) * 2 - 1
    return batch | {"action_is_pad": torch.zeros(2, policy.config.chunk_size, dtype=torch.bool)}


KINDS = {
    "ef_vla": Kind(EF_VLA, EFVLAConfig.tiny, EFVLAPolicy, lambda policy: windows(policy, 2)),
    "vla_adapter": Kind(VLM, VLAAdapterConfig.tiny, VLAAdapterPolicy, chunks),
    "focus_vla": Kind(VLM, FocusVLAConfig.tiny, FocusVLAPolicy, chunks),
}


def one_step(kind: Kind, changes: dict[str, Any], encoder: TinyEncoder) -> str:
    """`refused` or `ran`.

    Raises:
        AssertionError: refused without naming a field that was changed, or a loss, gradient or action is not finite.
    """
    try:
        _one_step(kind, changes, encoder)
    except FoveaError as error:
        message = str(error)
    else:
        return "ran"
    assert any(name in message for name in changes), f"{changes}: the message names none of them: {message}"
    return "refused"


def _one_step(kind: Kind, changes: dict[str, Any], encoder: TinyEncoder) -> None:
    torch.manual_seed(0)
    policy = kind.build(kind.configure(device="cpu", **changes), encoder=encoder)
    loss, _ = policy.train()(kind.batch(policy))
    assert torch.isfinite(loss), f"{changes}: the loss is {loss}"
    loss.backward()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    assert gradients, f"{changes}: nothing learns"
    assert all(torch.isfinite(gradient).all() for gradient in gradients), (
        f"{changes}: a gradient is not finite"
    )
    action = policy.act([policy.new_episode() for _ in range(2)], frames(2))
    assert action.shape == (2, 7), f"{changes}: actions of shape {tuple(action.shape)}"
    assert torch.isfinite(action).all(), f"{changes}: an action is not finite"
