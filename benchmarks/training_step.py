"""CPU time of an EF-VLA training step: torch's own products (MKL) beside oneDNN, and oneDNN with freed memory kept.

    python benchmarks/training_step.py [tiny|b32]

One thread, windows from memory, batch 16, medians over rounds. CPU time, so that other work on the machine does not
count; page faults are those of the process.
"""

import json
import resource
import sys

import numpy as np
import torch

from fovea.encoders import create_encoder
from fovea.heap import keep_freed_memory
from fovea.nn import onednn
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy

BATCH, WARM, ROUNDS = 16, 2, 8
SENTENCE = "pick up the milk and place it in the basket"


def make_policy(preset: str) -> EFVLAPolicy:
    """The preset's policy; CLIP's words are random, its weights are not needed."""
    if preset == "tiny":
        return EFVLAPolicy(EFVLAConfig.preset("tiny", device="cpu"), encoder=create_encoder("tiny"))
    policy = EFVLAPolicy(EFVLAConfig.preset(preset, device="cpu"))
    width = policy.config.encoder_width
    words = torch.nn.functional.normalize(torch.randn(77, width), dim=-1)
    policy._features._sentences[SENTENCE] = (words, torch.arange(77) < 10)
    return policy


def windows(config: EFVLAConfig) -> dict[str, object]:
    """A random batch with cached patches."""
    time, patches = config.n_obs_steps, config.encoder_grid[0] * config.encoder_grid[1]
    steps = time + config.chunk_size - 1
    seen = {
        f"observation.features.{name}": torch.nn.functional.normalize(
            torch.randn(BATCH, time, patches, config.encoder_width), dim=-1
        ).half()
        for name in ("image", "image2")
    }
    return seen | {
        "observation.state": torch.randn(BATCH, time, 8),
        "observation.state_is_pad": torch.zeros(BATCH, time, dtype=torch.bool),
        "action": torch.rand(BATCH, steps, 7) * 2 - 1,
        "action_is_pad": torch.zeros(BATCH, steps, dtype=torch.bool),
        "task": [SENTENCE] * BATCH,
    }


def measure(policy: EFVLAPolicy, batch: dict[str, object]) -> dict[str, float]:
    """Medians of a step's CPU milliseconds and page faults."""
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-4, fused=True)
    used = []
    for _ in range(WARM + ROUNDS):
        before = resource.getrusage(resource.RUSAGE_SELF)
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        used.append((1e3 * seconds, after.ru_minflt - before.ru_minflt))
    milliseconds, faults = np.median(used[WARM:], axis=0)
    return {"ms": round(float(milliseconds), 1), "page_faults": int(faults)}


def main() -> None:
    torch.set_num_threads(1)
    preset = (sys.argv[1:] or ["tiny"])[0]
    policy = make_policy(preset).train()
    batch = windows(policy.config)
    onednn._AVAILABLE = False
    found = {"torch": measure(policy, batch)}
    onednn._AVAILABLE = True
    found["onednn"] = measure(policy, batch)
    if keep_freed_memory():
        found["onednn, memory kept"] = measure(policy, batch)
    print(json.dumps({"preset": preset, "batch": BATCH, **found}, indent=2))


if __name__ == "__main__":
    main()
