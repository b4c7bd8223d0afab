"""How far a converted OTTER is from the reference, on inputs and outputs that the reference wrote down.

Shape letters: B batch, T time, C cameras, N patches, M words, H horizon, A action.
"""

import torch
from torch import Tensor

from fovea.encoders.clip import ClipEncoder
from fovea.errors import FoveaError
from fovea.policies.ef_vla.features_ef_vla import TOKENS
from fovea.policies.ef_vla.model_ef_vla import StepState
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy

TOLERANCE = 1e-5
INPUTS = ("in.images", "in.text", "in.proprio")
STEPWISE = "out.stepwise_actions_sample"


@torch.no_grad()
def otter_deviations(policy: EFVLAPolicy, samples: dict[str, Tensor]) -> dict[str, float]:
    """Largest absolute difference of every output that is there, computed from the inputs alone.

    Args:
        samples: `in.images` (B, T, C, 3, h, w), normalised; `in.text` (B, M) token ids; `in.proprio` (B, T, P); and of
            `out.patches`, `out.text`, `out.token`, `out.actions`, `out.stepwise_actions_sample<row>` any.

    Raises:
        FoveaError: inputs are missing, or shapes differ.
    """
    if missing := [name for name in INPUTS if name not in samples]:
        raise FoveaError(f"expected samples with {', '.join(INPUTS)}, missing: {', '.join(missing)}")
    policy.eval()
    encoder, images = policy.encoder, samples["in.images"]
    if not isinstance(encoder, ClipEncoder):
        raise FoveaError(f"expected a policy with OTTER's CLIP, got one with {encoder.name}")
    patches = encoder.patches(images.flatten(0, 2)).unflatten(0, images.shape[:3])
    words = policy._features.words({TOKENS: samples["in.text"]}, images.device)
    token = policy.model.tokens(patches, words, samples["in.proprio"])
    found = {
        "out.patches": patches,
        "out.text": words.values,
        "out.token": token,
        "out.actions": policy.model.predict(token),
    }
    for name in samples:
        if name.startswith(STEPWISE):
            row, state = int(name.removeprefix(STEPWISE)), StepState()
            found[name] = torch.cat([policy.model.step(frame[None], state) for frame in token[row]])
    return {name: _distance(name, ours, samples[name]) for name, ours in found.items() if name in samples}


def _distance(name: str, ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise FoveaError(f"expected {name} of shape {tuple(ours.shape)}, got {tuple(theirs.shape)}")
    return float((ours - theirs.float()).abs().max())
