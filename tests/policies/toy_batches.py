"""Random frames and windows for a toy EF-VLA with two cameras of 32 pixels."""

from typing import Any

import torch

from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy

TASKS = ["pick up the milk", "pick up the butter and place it in the basket", "open the drawer"]
CAMERAS = ("image", "image2")


def frames(count: int, seed: int = 0) -> dict[str, Any]:
    """Single frames of `count` episodes."""
    generator = torch.Generator().manual_seed(seed)
    pictures = {
        f"observation.images.{name}": torch.randint(
            0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator
        )
        for name in CAMERAS
    }
    state = torch.randn(count, 8, generator=generator)
    return {**pictures, "observation.state": state, "task": [TASKS[i % 3] for i in range(count)]}


def windows(policy: EFVLAPolicy, count: int, seed: int = 0) -> dict[str, Any]:
    """Windows with cached patches, some actions padded."""
    config, generator = policy.config, torch.Generator().manual_seed(seed)
    time, span = config.n_obs_steps, (config.n_obs_steps - 1) * config.obs_stride + config.chunk_size
    patches = config.encoder_grid[0] * config.encoder_grid[1]
    batch: dict[str, Any] = {
        f"observation.features.{name}": torch.nn.functional.normalize(
            torch.randn(count, time, patches, config.encoder_width, generator=generator), dim=-1
        ).half()
        for name in CAMERAS
    }
    batch["observation.state"] = torch.randn(count, time, 8, generator=generator)
    batch["action"] = torch.rand(count, span, 7, generator=generator) * 2 - 1
    batch["action_is_pad"] = torch.zeros(count, span, dtype=torch.bool)
    batch["action_is_pad"][0, -3:] = True
    batch["task"] = [TASKS[i % 3] for i in range(count)]
    return batch


def pick(batch: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Rows of a batch, in any order."""
    return {
        key: [value[i] for i in rows] if isinstance(value, list) else value[rows]
        for key, value in batch.items()
    }


def join(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Batches one after the other."""
    return {
        key: [item for batch in batches for item in batch[key]]
        if isinstance(batches[0][key], list)
        else torch.cat([batch[key] for batch in batches])
        for key in batches[0]
    }
