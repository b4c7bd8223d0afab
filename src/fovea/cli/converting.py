"""What the verbs that convert public checkpoints share: counts that make sense, and the comparison they end with."""

from collections.abc import Mapping, Sequence
from typing import Any

from fovea.errors import FoveaError


def check_counts(config: Any, names: Sequence[str]) -> None:
    """Refuse a count that was given and is below 1.

    Raises:
        FoveaError: names the flag.
    """
    for name in names:
        if (value := getattr(config, name)) is not None and value < 1:
            raise FoveaError(f"{name}: expected at least 1, got {value}")


def report_deviations(deviations: Mapping[str, float], *, whose: str, tolerance: float, suspect: str) -> int:
    """Print how far each output is from `whose` own; returns the exit code, 1 where one is further than `tolerance`.

    Args:
        suspect: what may be wrong then, as a question.
    """
    if not deviations:
        raise FoveaError("check: expected outputs (out.*) beside the inputs to compare with, found none")
    for name, deviation in deviations.items():
        print(f"  {name:<32} {deviation:.1e} from the {whose}")
    far = [name for name, deviation in deviations.items() if not deviation <= tolerance]
    if far:
        print(f"{', '.join(far)}: further than {tolerance:.0e}; {suspect}")
    return 1 if far else 0
