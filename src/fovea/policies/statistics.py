"""Statistics that suit a policy, also where LeRobot puts a data set's plain ones in their place.

`lerobot-train --policy.path=...` builds the saved pipelines again and forces the new data set's statistics into the
steps that it calls `normalizer_processor` and `unnormalizer_processor`. Steps with these names, which adjust whatever
statistics they are given, are therefore the only place where an adjustment survives. A pipeline that names a class
(and no registered step) is addressed by the class's name: hence names in small letters.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from lerobot.configs import PreTrainedConfig
from lerobot.processor import (
    NormalizerProcessorStep,
    PolicyProcessorPipeline,
    UnnormalizerProcessorStep,
    make_default_pre_post_processors,
)

from fovea.errors import FoveaError
from fovea.policies.data_checks import ROTATION, Stats

SMALLEST_SCALE = 0.05  # of LIBERO's [-1, 1], less of smaller motions: what hardly moves is not blown up
SMALLEST_DEVIATION = 1e-3
EDGES = (("q01", "min"), ("q99", "max"))  # a quantile, and what stands for it where a data set has none


def rotation_untouched(column: dict[str, Any]) -> dict[str, Any]:
    """Mean and deviation on position and gripper only: the policy turns the rotation (3:6) into a matrix itself."""
    mean, std = (np.array(column[name], dtype=np.float32) for name in ("mean", "std"))
    mean[ROTATION], std[ROTATION] = 0.0, 1.0
    return column | {"mean": mean, "std": np.maximum(std, SMALLEST_DEVIATION)}


def symmetric(column: dict[str, Any]) -> dict[str, Any]:
    """Scaled by the larger of |q01| and |q99|: zero stays zero, and small rotations are not lost."""
    low, high = (_quantile(column, name, edge) for name, edge in EDGES)
    largest = np.maximum(np.abs(low), np.abs(high))
    scale = np.maximum(largest, _least(largest))
    return column | {"q01": -scale, "q99": scale}


def symmetric_but_gripper(column: dict[str, Any]) -> dict[str, Any]:
    """The same, and the last dimension, -1 or +1, stays as it is."""
    return _gripper_untouched(symmetric(column))


def quantiles(column: dict[str, Any]) -> dict[str, Any]:
    """q01 and q99 become -1 and 1 (OpenVLA, VLA-Adapter); what hardly moves (metres, radians) is not blown up."""
    return _quantiles(column, relative=False)


def action_quantiles(column: dict[str, Any]) -> dict[str, Any]:
    """The same, in whatever unit the actions are."""
    return _quantiles(column, relative=True)


def _quantiles(column: dict[str, Any], *, relative: bool) -> dict[str, Any]:
    low, high = (_quantile(column, name, edge) for name, edge in EDGES)
    half = (high - low) / 2
    widened = np.maximum((_least(half) if relative else SMALLEST_SCALE) - half, 0.0)
    return column | {"q01": low - widened, "q99": high + widened}


def _least(scales: np.ndarray) -> float:
    """What counts as hardly moving, by the largest scale of the dimensions but the last, which may be a gripper.

    Never above that of LIBERO; and done twice it is the same, for it does not reach the largest scale.
    """
    largest = float(scales[:-1].max(initial=0.0))
    return SMALLEST_SCALE * (min(1.0, largest) or 1.0)


def exact_quantiles(column: dict[str, Any]) -> dict[str, Any]:
    """q01 and q99 become -1 and 1 whatever their distance, as public weights expect."""
    return column | {name: _quantile(column, name, edge) for name, edge in EDGES}


def quantiles_but_gripper(column: dict[str, Any]) -> dict[str, Any]:
    """As `action_quantiles`, and the last dimension, -1 or +1, stays as it is."""
    return _gripper_untouched(action_quantiles(column))


def exact_quantiles_but_gripper(column: dict[str, Any]) -> dict[str, Any]:
    """As `exact_quantiles`, and the last dimension, -1 or +1, stays as it is."""
    return _gripper_untouched(exact_quantiles(column))


def _gripper_untouched(column: dict[str, Any]) -> dict[str, Any]:
    column["q01"][-1], column["q99"][-1] = -1.0, 1.0
    return column


RULES = {
    rule.__name__: rule
    for rule in (
        *(rotation_untouched, symmetric, symmetric_but_gripper),
        *(quantiles, action_quantiles, quantiles_but_gripper),
        *(exact_quantiles, exact_quantiles_but_gripper),
    )
}


def adjusted(stats: Stats, rules: dict[str, str]) -> Stats:
    """Apply to each column that `rules` names its rule (a key of `RULES`); doing so twice changes nothing.

    Raises:
        FoveaError: no such rule, or a column lacks the statistics that its rule needs.
    """
    stats = deepcopy(stats)
    for key, name in rules.items():
        if name not in RULES:
            raise FoveaError(f"expected a rule among {', '.join(RULES)} for {key}, got {name!r}")
        if key not in stats:
            continue
        try:
            stats[key] = RULES[name](stats[key])
        except KeyError as error:
            raise FoveaError(
                f"the data set's statistics of {key} lack {error}, found {', '.join(stats[key])}; compute them again "
                "with LeRobot (meta/stats.json)"
            ) from error
    return stats


def _quantile(column: dict[str, Any], name: str, edge: str) -> np.ndarray:
    """A quantile, or the extreme value where a data set has no quantiles."""
    return np.array(column[name] if name in column else column[edge], dtype=np.float32)


@dataclass
class normalizer_processor(NormalizerProcessorStep):
    """LeRobot's normaliser over adjusted statistics.

    Attributes:
        rules: column -> name of its rule, see `adjusted`.
    """

    stats: Stats | None = None
    rules: dict[str, str] = field(default_factory=dict)
    _registry_name: ClassVar[str | None] = None  # not LeRobot's: pipelines on disk name this class

    def __post_init__(self) -> None:
        self.stats = adjusted(self.stats, self.rules) if self.stats else self.stats
        super().__post_init__()

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rules": self.rules}


@dataclass
class unnormalizer_processor(UnnormalizerProcessorStep):
    """The way back, for actions."""

    stats: Stats | None = None
    rules: dict[str, str] = field(default_factory=dict)
    _registry_name: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        self.stats = adjusted(self.stats, self.rules) if self.stats else self.stats
        super().__post_init__()

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rules": self.rules}


def make_adjusted_processors(
    config: PreTrainedConfig, dataset_stats: Stats | None, rules: dict[str, str]
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """LeRobot's default pipelines, with normalisers that keep to `rules` whatever statistics they are given later."""
    before, after = make_default_pre_post_processors(config, None, normalizer_device=config.device)
    inputs, outputs = config.input_features or {}, config.output_features or {}
    ours = {
        NormalizerProcessorStep: normalizer_processor(
            {**inputs, **outputs},
            config.normalization_mapping,
            stats=dataset_stats,
            device=config.device,
            rules=rules,
        ),
        UnnormalizerProcessorStep: unnormalizer_processor(
            outputs, config.normalization_mapping, stats=dataset_stats, rules=rules
        ),
    }
    for pipeline in (before, after):
        pipeline.steps = [ours.get(type(step), step) for step in pipeline.steps]
    return before, after
