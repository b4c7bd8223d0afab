"""What a pretraining checkpoint holds: weights, optimiser moments, step, and the recipe they belong to.

One safetensors file, replaced as a whole: a killed run leaves the last checkpoint intact.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from fovea.data.files import atomic_write
from fovea.encoders.tiny import TinyEncoder
from fovea.errors import FoveaError
from fovea.training.pretrain_loss import PretrainLoss

# temperatures start far from where they end and hardly move at the rate of the matrices
_SCALAR_HASTE = 10.0
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class TrainingState:
    """Encoder, loss and optimiser of a run, and how far it is.

    Args:
        encoder: what is trained.
        loss: its loss, with parameters of its own.
        recipe: JSON-able; a checkpoint of another recipe is refused.
        learning_rate: peak.
        weight_decay: on matrices; vectors and positions have none.
    """

    def __init__(
        self,
        encoder: TinyEncoder,
        loss: PretrainLoss,
        recipe: dict[str, Any],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        self.encoder, self.loss = encoder, loss
        self.recipe = json.dumps(recipe, sort_keys=True)
        self.step, self.seconds = 0, 0.0
        self.names: dict[str, nn.Parameter] = {f"encoder.{k}": p for k, p in encoder.named_parameters()}
        self.names |= {f"loss.{k}": p for k, p in loss.named_parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for key, parameter in self.names.items():
            decay = weight_decay if parameter.ndim > 1 and "positions" not in key else 0.0
            haste = _SCALAR_HASTE if parameter.ndim == 0 else 1.0
            groups.setdefault((decay, haste), []).append(parameter)
        self.optimiser = torch.optim.AdamW(
            [{"params": p, "weight_decay": decay, "haste": haste} for (decay, haste), p in groups.items()],
            learning_rate,
            (0.9, 0.98),
        )

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
        tensors = {key: parameter.detach() for key, parameter in self.names.items()}
        for key, parameter in self.names.items():
            for moment, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{moment}.{key}"] = value
        metadata = {"step": str(self.step), "seconds": str(self.seconds), "recipe": self.recipe}
        with atomic_write(path) as file:
            file.write(save({key: value.contiguous() for key, value in tensors.items()}, metadata))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            FoveaError: it belongs to another recipe.
        """
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if metadata["recipe"] != self.recipe:
                raise FoveaError(
                    f"{path.parent} holds a run with another configuration: expected {self.recipe}, "
                    f"got {metadata['recipe']}; choose another output folder, or delete it to start again"
                )
            stored = set(file.keys())
            for key, parameter in self.names.items():
                parameter.data.copy_(file.get_tensor(key))
                moments = [moment for moment in _MOMENTS if f"optimiser.{moment}.{key}" in stored]
                if moments:  # parameters beyond the tap have none
                    self.optimiser.state[parameter] = {
                        moment: file.get_tensor(f"optimiser.{moment}.{key}") for moment in moments
                    }
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
