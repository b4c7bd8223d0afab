"""What a grafting run trains, and how: flow matching through a frozen backbone.

Shape letters: B batch, N tokens, V width of the encoder, H actions of a chunk, M numbers of a padded action, A of a
real one.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fovea.data.files import atomic_write
from fovea.errors import FoveaError
from fovea.grafting.backbones import Backbone, Inputs
from fovea.grafting.settings import Recipe
from fovea.training.schedule import learning_rate

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW
BETA, TIME_SCALE, TIME_OFFSET = 1.5, 0.999, 0.001  # of t ~ Beta(1.5, 1), as SmolVLA and pi0.5 draw it


def train(
    backbone: Backbone,
    parameters: dict[str, nn.Parameter],
    draw: Callable[[int], tuple[Inputs, list[Tensor]]],
    recipe: Recipe,
    *,
    seed: int,
    peak: float,
    state: Path,
    tick: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train `parameters` and nothing else; goes on from `state` if a killed run left one.

    Every update is a pure function of (seed, step, parameters): a run that goes on gives the same bits.

    Args:
        draw: inputs and tokens (one (B, N, V) per camera) of an update's number.
        peak: learning rate.
        state: file for going on; deleted by whoever keeps the outcome.
        tick: called after every update.

    Returns:
        Loss of every update.

    Raises:
        FoveaError: the loss is not finite, or the saved state is damaged.
    """
    optimizer = torch.optim.AdamW(parameters.values(), lr=peak, weight_decay=0.0)
    losses = _restore(state, parameters, optimizer)
    for _ in losses:
        tick()
    for step in range(len(losses), recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=peak, warmup=recipe.warmup_steps, steps=recipe.steps)
        inputs, tokens = draw(step)
        noise, time = training_noise(seed, step, inputs.actions.shape, inputs.actions.device)
        loss = masked_mean(backbone.velocity_loss(inputs, tokens, noise, time), inputs.is_pad)
        if not torch.isfinite(loss):
            raise FoveaError(
                f"{backbone.name}: the loss became {loss.item()} at step {step + 1}; lower --recipe.learning_rate"
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.clip_norm)
        optimizer.step()
        losses.append(round(loss.item(), 6))
        tick()
        if len(losses) % recipe.save_every == 0 and len(losses) < recipe.steps:
            _keep(state, parameters, optimizer, losses)
    return losses


def masked_mean(errors: Tensor, is_pad: Tensor) -> Tensor:
    """Mean of (B, H, A) over steps that are not padding."""
    real = (~is_pad)[..., None].expand_as(errors)
    return (errors * real).sum() / real.sum().clamp(min=1)


def training_noise(seed: int, step: int, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise (B, H, M) and time (B,) of one update: the same on every machine."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
    noise = torch.randn(shape, generator=generator)
    return noise.to(device), flow_time(torch.rand(shape[0], generator=generator)).to(device)


def flow_time(uniform: Tensor) -> Tensor:
    """t ~ Beta(1.5, 1) in (0.001, 1) by its inverse distribution function, u^(1/1.5)."""
    return uniform ** (1 / BETA) * TIME_SCALE + TIME_OFFSET


@contextmanager
def lora(backbone: Backbone, rank: int, seed: int) -> Iterator[dict[str, nn.Parameter]]:
    """Within the block, LoRA adapters on the query and value maps of the language model and the action expert.

    Yields their parameters; afterwards the backbone is as it was. The vision tower carries none: its tokens are cached.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    tower = r"(?!.*(vision_model|vision_tower))"
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=rf"{tower}.*self_attn\.(q|v)_proj"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = LoraModel(backbone.policy, config, "default")
    for parameter in backbone.policy.parameters():
        if parameter.requires_grad:  # as precise as the projector of other runs, whatever the checkpoint is
            parameter.data = parameter.data.float()
    try:
        yield {name: p for name, p in backbone.policy.named_parameters() if p.requires_grad}
    finally:
        adapted.unload()
        backbone.policy.requires_grad_(False)


def _keep(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, losses: list[float]
) -> None:
    tensors = {f"value.{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for moment, value in optimizer.state[parameter].items():
            tensors[f"{moment}.{name}"] = torch.as_tensor(value)
    whole = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(whole, metadata={"losses": json.dumps(losses)}))


def _restore(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> list[float]:
    """Losses so far; none without a saved state."""
    if not path.is_file():
        return []
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            kept = set(file.keys())
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(f"value.{name}"))
                moments = [
                    moment for moment in MOMENTS if f"{moment}.{name}" in kept
                ]  # none without a gradient
                for moment in moments:
                    value = file.get_tensor(f"{moment}.{name}")
                    optimizer.state[parameter][moment] = (
                        value if moment == "step" else value.to(parameter.device)
                    )
            return json.loads(file.metadata()["losses"])
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise FoveaError(
            f"cannot go on from {path} ({error}); delete it, the run then starts anew"
        ) from error
