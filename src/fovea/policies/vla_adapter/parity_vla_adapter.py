"""How far a converted VLA-Adapter is from the release, on inputs and outputs that the release wrote down.

Shape letters: L layers, B batch, M vision tokens, Q action queries, D width of the VLM, H horizon, A action,
P proprioception.
"""

import torch
from torch import Tensor

from fovea.errors import FoveaError
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy
from fovea.vlm.states import VLMStates

TOLERANCE = 1e-5
INPUTS = ("in.vision_states", "in.query_states", "in.proprio")
FROM_ZERO, FROM_LATENT = "out.actions_from_zero_latent", "out.actions_from_latent"


@torch.no_grad()
def vla_adapter_deviations(policy: VLAAdapterPolicy, samples: dict[str, Tensor]) -> dict[str, float]:
    """Largest absolute difference of every output that is there.

    Args:
        samples: `in.vision_states` (B, L + 1, M, D) and `in.query_states` (B, L + 1, Q, D), entry 0 the embeddings;
            `in.proprio` (B, P); `in.latent` (B, H, A x D) where a given start is to be compared;
            `out.actions_from_zero_latent` and `out.actions_from_latent` (B, H, A), one or both.

    Raises:
        FoveaError: inputs are missing, or shapes differ.
    """
    if missing := [name for name in INPUTS if name not in samples]:
        raise FoveaError(f"expected samples with {', '.join(INPUTS)}, missing: {', '.join(missing)}")
    vision, queries = (samples[name][:, 1:].transpose(0, 1) for name in INPUTS[:2])
    states = VLMStates(vision, queries, vision[-1])
    starts = {FROM_ZERO: None, FROM_LATENT: samples.get("in.latent")}
    deviations: dict[str, float] = {}
    for name, latent in starts.items():
        if name not in samples or (name == FROM_LATENT and latent is None):
            continue
        ours = policy.eval().model(states, samples["in.proprio"], latent=latent)
        if ours.shape != samples[name].shape:
            raise FoveaError(f"expected {name} {tuple(ours.shape)}, got {tuple(samples[name].shape)}")
        deviations[name] = float((ours - samples[name]).abs().max())
    return deviations
