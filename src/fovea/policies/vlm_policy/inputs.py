"""How a batch becomes the inputs of a VLM and of the policy on top of it.

Shape letters: L layers, B batch, C cameras, N patches of a camera, M = C * N, Q action queries, D width of the VLM,
R width of the raw vision features, P proprioception.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fovea.data.keys import features_key
from fovea.errors import FoveaError
from fovea.policies.batches import check_counts, check_finite_rows, rows
from fovea.policies.ef_vla.features_ef_vla import to_uint8
from fovea.policies.vlm_policy.configuration import (
    EXTRA_MASK,
    QUERY_STATES,
    RAW_FEATURES,
    STATE,
    VISION_MASK,
    VISION_STATES,
    VLMPolicyConfig,
)
from fovea.tokens import Tokens
from fovea.vlm.states import VLMStates


class VLMInputs:
    """Reads batches of one frame a sample, with or without a time axis of length 1."""

    def __init__(self, config: VLMPolicyConfig) -> None:
        self.config = config

    def count(self, batch: dict[str, Any]) -> int:
        """B."""
        return len(self._column(batch, STATE))

    def rows(self, batch: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """Samples of a batch."""
        return rows(batch, chosen, self.count(batch))

    def features(
        self,
        batch: dict[str, Any],
        encode: Callable[[Tensor], Tensor],
        device: torch.device,
        crop: float = 1.0,
    ) -> Tensor:
        """Cached or freshly encoded raw features (B, M, R), camera after camera.

        Args:
            crop: share of the pictures' area that is seen, from the middle.

        Raises:
            FoveaError: neither pictures nor features of every camera.
        """
        keys = self.config.camera_keys
        cached = [features_key(key) for key in keys]
        if all(key in batch for key in cached):
            if self.config.uses_pixels:
                raise FoveaError(
                    "expected pictures, got cached features: the vision encoder of this policy's VLM is trained "
                    f"(vlm.trainable={self.config.vlm.trainable}), so they are not its features"
                )
            if self.config.center_crop < 1:
                raise FoveaError(
                    f"expected pictures with center_crop={self.config.center_crop}, got cached features, which are of "
                    "whole pictures; set center_crop=1, or train the vision (vlm.trainable=lora)"
                )
            cameras = [self._frame(batch[key], 3, key) for key in cached]
            return torch.cat([camera.to(device, torch.float32) for camera in cameras], dim=1)
        if not all(key in batch for key in keys):
            raise FoveaError(
                f"expected all of {keys} or all of {cached} in the batch, got {sorted(batch)}; "
                "rename the cameras or set input_features"
            )
        pictures = [middle(to_uint8(self._frame(batch[key], 4, key)).to(device), crop) for key in keys]
        if len({picture.shape for picture in pictures}) == 1:
            return encode(torch.stack(pictures, dim=1))
        largest = max((picture.shape[-2:] for picture in pictures), key=lambda size: size[0] * size[1])
        resized = [_resized(picture, (int(largest[0]), int(largest[1]))) for picture in pictures]
        return encode(torch.stack(resized, dim=1))

    def sentences(self, batch: dict[str, Any]) -> list[str]:
        """B instructions."""
        sentences = batch.get("task")
        if isinstance(sentences, str) or not isinstance(sentences, Sequence):
            raise FoveaError(f"expected one instruction in words per sample under `task`, got {sentences!r}")
        return list(sentences)

    def mask(self, batch: dict[str, Any], device: torch.device) -> Tensor | None:
        """(B, M) of vision tokens that exist, where the batch says so."""
        if VISION_MASK not in batch:
            return None
        return self._frame(batch[VISION_MASK], 2, VISION_MASK).to(device).bool()

    def proprio(self, batch: dict[str, Any], device: torch.device) -> Tensor:
        """(B, P), clipped to [-1, 1] where that is where most of it lies."""
        state = self._frame(self._column(batch, STATE).to(device, torch.float32), 2, STATE)
        return state.clamp(-1, 1) if self.config.clips("STATE") else state

    def check_acting(self, batch: dict[str, Any]) -> None:
        """Refuse frames that must not be acted on.

        Raises:
            FoveaError: NaN or infinity in the state, or other numbers of states, pictures and instructions.
        """
        check_finite_rows(STATE, self._frame(self._column(batch, STATE), 2, STATE))
        cameras = self.config.camera_keys
        keys = [key for key in (STATE, *cameras, *map(features_key, cameras), "task") if key in batch]
        check_counts({key: len(batch[key]) for key in keys if not isinstance(batch[key], str)})

    def extra(self, batch: dict[str, Any], device: torch.device) -> Tensor | Tokens | None:
        """Tokens computed elsewhere (B, M', X), for representation vggt, masked where the batch says so."""
        if self.config.representation != "vggt":
            return None
        key, padding = self.config.extra_key, f"{self.config.extra_key}{EXTRA_MASK}"
        tokens = self._frame(self._column(batch, key), 3, key).to(device, torch.float32)
        if padding not in batch:
            return tokens
        mask = self._frame(batch[padding], 2, padding).to(device).bool()
        if mask.shape != tokens.shape[:2]:
            raise FoveaError(f"expected {padding} {tuple(tokens.shape[:2])}, got {tuple(mask.shape)}")
        return Tokens(tokens, mask)

    def given_states(self, batch: dict[str, Any], device: torch.device) -> VLMStates:
        """States of a VLM that ran elsewhere; raw features only where the representation is made of them."""

        def column(key: str, axes: int) -> Tensor:
            return self._frame(self._column(batch, key), axes, key).to(device, torch.float32)

        vision, queries = (column(key, 4).transpose(0, 1) for key in (VISION_STATES, QUERY_STATES))
        features = column(RAW_FEATURES, 3) if "ds" in self.config.representation else vision[-1]
        return VLMStates(vision, queries, features, self.mask(batch, device))

    def _column(self, batch: dict[str, Any], key: str) -> Tensor:
        if key not in batch:
            raise FoveaError(f"expected {key} in the batch, got {sorted(batch)}")
        return batch[key]

    def _frame(self, values: Tensor, axes: int, key: str) -> Tensor:
        """Drop a time axis of length 1 behind the batch axis."""
        if values.ndim == axes + 1 and values.shape[1] == 1:
            return values[:, 0]
        if values.ndim != axes:
            raise FoveaError(
                f"expected one frame a sample under {key}, {axes} axes, got {tuple(values.shape)}; "
                "these policies see the present frame only"
            )
        return values


def middle(pictures: Tensor, area: float) -> Tensor:
    """The middle of uint8 pictures (B, 3, h, w), a share of their area, at their size: bilinear, as OpenVLA's code."""
    if area == 1:
        return pictures
    side = math.sqrt(area)
    height, width = pictures.shape[-2:]
    # Corners on corners, as TensorFlow's crop_and_resize: the grid's ends are the outer pixels' centres.
    ends = (torch.linspace(-side, side, size, device=pictures.device) for size in (height, width))
    rows, columns = torch.meshgrid(*ends, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).expand(len(pictures), -1, -1, -1)
    seen = torch.nn.functional.grid_sample(pictures.float(), grid, mode="bilinear", align_corners=True)
    return seen.round().clamp(0, 255).to(torch.uint8)


def _resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 pictures (B, 3, h, w) of another size."""
    if pictures.shape[-2:] == size:
        return pictures
    resized = torch.nn.functional.interpolate(
        pictures.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized.round().clamp(0, 255).to(torch.uint8)
