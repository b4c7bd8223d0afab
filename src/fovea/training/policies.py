"""What the trainer asks of a policy: its configuration and scaling for the recipe, its parameters in groups."""

import hashlib
import json
from typing import Any

import draccus
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy

_FREE = ("device", "use_amp", "push_to_hub", "repo_id", "private", "tags", "license")


def describe_policy(config: PreTrainedConfig) -> dict[str, Any]:
    """A policy's type and configuration, but for where it runs and where it is uploaded."""
    fields = {name: value for name, value in draccus.encode(config).items() if name not in _FREE}
    return {"type": config.type, **fields}


def scaling(*pipelines: Any) -> str:
    """SHA-256 over the statistics by which LeRobot's processors scale states and actions, to six digits."""
    numbers = [
        [name, [f"{number:.5e}" for number in tensor.flatten().tolist()]]
        for pipeline in pipelines
        for step in getattr(pipeline, "steps", ())
        for name, tensor in sorted(step.state_dict().items())
    ]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def parameter_groups(policy: PreTrainedPolicy, weight_decay: float) -> list[dict[str, Any]]:
    """The policy's own groups where it has some; else matrices with weight decay, scalars and vectors without.

    A group with an `lr` of its own (a vision tower, as in LeRobot's ACT) keeps its proportion to the policy's
    `optimizer_lr` at every step of the schedule: the group's `lr_scale`.
    """
    own = policy.get_optim_params()
    if not (isinstance(own, list) and own and isinstance(own[0], dict)):
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        own = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    base = getattr(policy.config, "optimizer_lr", None)
    return [
        {
            "weight_decay": weight_decay,
            "lr_scale": group["lr"] / base if base and "lr" in group else 1.0,
            **{name: value for name, value in group.items() if name != "lr"},
        }
        for group in own
    ]
