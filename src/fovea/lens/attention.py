"""Where the layers of a policy look, and how much of that falls on the objects of the task (FocusVLA, Fig. 2 and 8a).

The weights come out of the policy's own forward pass (`maps` of its attention modules): after its mask, its top-K
selection and its gate on logits, as they were used.

Shape letters: L layers, B batch, C cameras, N patches of a camera on a grid of gh x gw, H queries, R readouts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor, Observation
from fovea.lens.grounding import patch_cover
from fovea.lens.moments import Moment
from fovea.lens.word_maps import camera_names
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.vlm_policy.configuration import VLMPolicyConfig
from fovea.policies.vlm_policy.policy import VLMPolicy

OBJECTS = ("objects", "target", "destination")
"""Whose share is measured: everything that the goal speaks of, what it moves, what receives something."""


@dataclass(frozen=True)
class LayerMaps:
    """Attention to vision at one moment, the mean over heads and queries.

    Attributes:
        weights: (L, C, gh, gw). The sum of a layer is the share of its attention that goes to vision: 1, or less where
            vision competes with other tokens in one softmax (mixed attention).
        kept: (L,) share of patches that get any weight, over heads and queries; below 1 with top-K.
        cameras: names of the C cameras.
    """

    weights: NDArray[np.float32]
    kept: NDArray[np.float32]
    cameras: tuple[str, ...]


class Gaze:
    """What a trained policy's layers look at.

    Args:
        actor: a loaded checkpoint: EF-VLA, LF-VLA, or a policy over a VLM.
        name: what tables call it.

    Attributes:
        kind: how its layers attend: `mixed`, `cascaded`, `parallel`, or `pooling` (the readouts of EF-VLA).
        choices: the same with what else decides what they see: "cascaded, top 64, element gate, vlm+ds".

    Raises:
        FoveaError: no such policy.
    """

    def __init__(self, actor: Actor, name: str) -> None:
        policy = actor.policy
        if not isinstance(policy, EFVLAPolicy | VLMPolicy):
            raise FoveaError(
                f"expected a checkpoint of ef_vla, vla_adapter or focus_vla, got {policy.config.type} in {name}: its "
                "attention is not known"
            )
        self.actor, self.name, self._names = actor, name, camera_names(actor)
        self.identity, self.image_size, self.title = actor.identity, actor.image_size, actor.title
        self.kind = "pooling" if isinstance(policy, EFVLAPolicy) else str(policy.config.attention)
        self.choices = ", ".join([self.kind, *_choices(policy.config)])

    @torch.no_grad()
    def look(self, observation: Observation) -> LayerMaps:
        """The maps of one observation of `LiberoEnv.observe`."""
        policy = self.actor.policy
        batch = self.actor.batch([observation])
        if isinstance(policy, EFVLAPolicy):
            found = policy.pooling_attention(batch)
            weights = found.weights[:, 0, 0].flatten(2, 3)  # (L, C, heads * R, N), each camera by itself
            weights = weights.transpose(1, 2) / len(found.cameras)
        else:
            found = policy.attention(batch)
            early = policy.config.vlm.compat and policy.config.representation in ("vlm", "vlm+ds")
            weights = in_place(found.weights[:, 0].flatten(1, 2), early)
            weights = weights.unflatten(-1, (len(found.cameras), -1))
        cameras = tuple(self._names[key] for key in found.cameras)
        means, kept = _mean(weights, found.grid)
        return LayerMaps(in_whole_picture(means, getattr(policy.config, "center_crop", 1.0)), kept, cameras)


def _choices(config: Any) -> list[str]:
    """What tells policies of one pattern apart, where it is not the plain one."""
    if not isinstance(config, VLMPolicyConfig):
        return []
    said = [f"top {config.top_k}"] if config.top_k else []
    said += [f"{config.gate} gate"] if config.gate != "none" else []
    return said + ([config.representation] if config.representation != "vlm" else [])


def in_place(weights: Tensor, early: bool) -> Tensor:
    """Weights (..., M) at the patches that they belong to.

    Non-obvious: VLA-Adapter's release reads its vision states one position early (`vlm.compat`): the first one is no
    patch, and the last patch is not there. Its weight is left out then.
    """
    return F.pad(weights[..., 1:], (0, 1)) if early else weights


def in_whole_picture(weights: NDArray[np.float32], area: float) -> NDArray[np.float32]:
    """Weights (..., gh, gw) on the middle of a picture, a share of its area, on the same grid over all of it."""
    if area == 1:
        return weights
    side = np.sqrt(area)

    def shares_of(cells: int) -> NDArray[np.float64]:
        """(cells of the middle, cells of the whole): how much of the first lies in the second."""
        middle, whole = np.linspace((1 - side) / 2, (1 + side) / 2, cells + 1), np.linspace(0, 1, cells + 1)
        low = np.maximum(middle[:-1, None], whole[None, :-1])
        high = np.minimum(middle[1:, None], whole[None, 1:])
        return np.clip(high - low, 0, None) * cells / side

    rows, columns = (shares_of(cells) for cells in weights.shape[-2:])
    return (rows.T @ weights @ columns).astype(weights.dtype)


def _mean(weights: Tensor, grid: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(L, heads * H, C, N) -> mean weights (L, C, gh, gw) and the share of patches with any weight (L,)."""
    if weights.shape[-1] != grid[0] * grid[1]:
        raise FoveaError(
            f"expected vision tokens on a grid of {grid[0]} x {grid[1]} in each of {weights.shape[-2]} cameras, got "
            f"{weights.shape[-1]} in each: tokens of another kind have no place in the picture"
        )
    kept = (weights > 0).float().mean((1, 2, 3))
    return weights.mean(1).unflatten(-1, grid).float().cpu().numpy(), kept.cpu().numpy()


def load_gaze(checkpoint: Path) -> Gaze:
    """The gaze of a checkpoint."""
    return Gaze(Actor.load(checkpoint), str(checkpoint))


def goal_masks(moment: Moment, camera: str) -> dict[str, NDArray[np.bool_]]:
    """Where the goal's objects are visible, by `OBJECTS`: (S, S) each."""
    names: Mapping[str, Iterable[str]] = {
        "objects": moment.targets | moment.destinations,
        "target": moment.targets,
        "destination": moment.destinations - moment.targets,
    }
    return {kind: moment.mask(camera, sorted(some)) for kind, some in names.items()}


def shares(moment: Moment, maps: LayerMaps) -> dict[str, Any]:
    """How much of a policy's attention falls on the task's objects.

    Returns:
        `vision` (share of the attention that goes to vision), `kept` (see `LayerMaps`), and for each of `OBJECTS`: its
        share of the attention to vision; each a list over layers. `area`: by `OBJECTS`, the share that a uniform
        gaze has: the masks' share of all pictures. `cameras`: name -> `share` of the attention to vision that goes to
        this camera, and of that, `objects`, over layers, and `area` in this picture.
    """
    weights = maps.weights.astype(np.float64)
    vision = weights.sum((1, 2, 3))
    by_camera = weights.sum((2, 3))
    masks = {camera: goal_masks(moment, camera) for camera in maps.cameras}
    grid = (weights.shape[2], weights.shape[3])
    seen = {
        kind: np.stack([patch_cover(masks[camera][kind], grid) for camera in maps.cameras])
        for kind in OBJECTS
    }
    on = {kind: (weights * seen[kind]).sum((2, 3)) for kind in OBJECTS}  # (L, C)
    areas = {kind: [float(masks[camera][kind].mean()) for camera in maps.cameras] for kind in OBJECTS}
    return {
        "vision": vision.tolist(),
        "kept": maps.kept.tolist(),
        **{kind: (on[kind].sum(1) / vision).tolist() for kind in OBJECTS},
        "area": {kind: float(np.mean(areas[kind])) for kind in OBJECTS},
        "cameras": {
            camera: {
                "share": (by_camera[:, i] / vision).tolist(),
                "objects": (on["objects"][:, i] / np.maximum(by_camera[:, i], 1e-12)).tolist(),
                "area": areas["objects"][i],
            }
            for i, camera in enumerate(maps.cameras)
        },
    }


def summarise(scenes: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """All scenes of one policy; a scene is the list of its moments' `shares`.

    Returns:
        `vision`, `kept` and each of `OBJECTS`: `mean` over scenes, of the mean over moments and layers, with its 95 %
        `interval`; `area`: by `OBJECTS`; `layers`: `vision` and `objects` by layer; `cameras`: name -> `share`,
        `objects` (with intervals) and `area`.
    """
    cameras = scenes[0][0]["cameras"]
    moments = [moment for scene in scenes for moment in scene]
    return {
        **{name: mean_interval(scene_means(scenes, name)) for name in ("vision", "kept", *OBJECTS)},
        "area": {kind: round(float(np.mean([m["area"][kind] for m in moments])), 4) for kind in OBJECTS},
        "layers": {
            name: np.mean([moment[name] for moment in moments], axis=0).round(4).tolist()
            for name in ("vision", "objects")
        },
        "cameras": {
            camera: {
                name: mean_interval(
                    [_mean_of([m["cameras"][camera][name] for m in scene]) for scene in scenes]
                )
                for name in ("share", "objects")
            }
            | {"area": round(_mean_of([moment["cameras"][camera]["area"] for moment in moments]), 4)}
            for camera in cameras
        },
    }


def scene_means(scenes: Sequence[Sequence[Mapping[str, Any]]], name: str) -> list[float]:
    """One of `shares`' lists as a number for each scene: the mean over its moments and layers."""
    return [_mean_of([moment[name] for moment in scene]) for scene in scenes]


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """`mean` and its 95 % `interval` (Student's t over scenes; None of a single one)."""
    mean, count = float(np.mean(values)), len(values)
    interval = None
    if count > 1:
        half = float(student.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
        interval = [round(mean - half, 4), round(mean + half, 4)]
    return {"mean": round(mean, 4), "interval": interval}


def _mean_of(values: Sequence[Any]) -> float:
    return float(np.mean(values))
