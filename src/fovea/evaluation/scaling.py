"""Whether a checkpoint's processors know the statistics by which they scale states and actions."""

from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, NormalizationMode

from fovea.errors import FoveaError

NEEDED = {
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


def check_scaling(folder: Path, preprocessor: Any, postprocessor: Any) -> None:
    """Refuse processors that would hand on states or actions unscaled: LeRobot skips what has no statistics.

    Raises:
        FoveaError: names what is missing, or of another size than the policy's.
    """
    for pipeline, kind in ((preprocessor, FeatureType.STATE), (postprocessor, FeatureType.ACTION)):
        for step in getattr(pipeline, "steps", ()):
            mode = getattr(step, "norm_map", {}).get(kind)
            chosen = getattr(step, "normalize_observation_keys", None)  # None: all
            for key, feature in (getattr(step, "features", None) or {}).items():
                if feature.type is kind and mode in NEEDED and (chosen is None or key in chosen):
                    _check(folder, key, tuple(feature.shape), mode, step.state_dict())


def _check(
    folder: Path, key: str, shape: tuple[int, ...], mode: NormalizationMode, found: dict[str, torch.Tensor]
) -> None:
    for name in NEEDED[mode]:
        statistics = found.get(f"{key}.{name}")
        if statistics is None or tuple(statistics.shape) != shape:
            got = "none" if statistics is None else f"shape {tuple(statistics.shape)}"
            raise FoveaError(
                f"expected {name} of {key}, shape {shape}, among the statistics of the processors in {folder} "
                f"({mode.value}), got {got}; restore the folder's files, or save the processors with their data's "
                "statistics"
            )
