"""Whether a data set is of the robot that a policy's configuration speaks of, as far as its statistics tell."""

from typing import Any

import numpy as np

from fovea.errors import FoveaError

ROTATION = slice(3, 6)
FULL_TURN = 6.3  # radians; an axis-angle goes to pi, recordings that do not wrap a little beyond
MIRRORED = 0.02  # metres that the mean places of two fingers may differ by
Stats = dict[str, dict[str, Any]]


def check_gripper(stats: Stats | None, setting: str) -> None:
    """Refuse a last action that is no gripper which opens (-1) or closes (+1).

    Args:
        stats: LeRobot's statistics of a data set; without minimum and maximum nothing can be said.
        setting: what to set for another kind of gripper, for the message.

    Raises:
        FoveaError: the least or the largest last action is neither -1 nor +1, as of a gripper from 0 to 1.
    """
    action = (stats or {}).get("action", {})
    if not {"min", "max"} <= action.keys():
        return
    low, high = float(action["min"][-1]), float(action["max"][-1])
    if any(abs(abs(edge) - 1) > 0.01 for edge in (low, high)):
        raise FoveaError(
            f"expected a last action of -1 (open) to +1 (close), got {low:g} to {high:g} in the data set; set "
            f"{setting} for another kind of gripper, or for none"
        )


def check_pose_state(stats: Stats | None) -> None:
    """Refuse a state that is no position, axis-angle and two mirrored fingers, where its statistics tell.

    Args:
        stats: LeRobot's statistics of a data set; without the state's mean, minimum and maximum nothing can be said.

    Raises:
        FoveaError: a rotation beyond a full turn, or two last numbers that do not mirror one another.
    """
    state = (stats or {}).get("observation.state", {})
    if not {"mean", "min", "max"} <= state.keys():
        return
    mean, low, high = (np.asarray(state[name], dtype=np.float64) for name in ("mean", "min", "max"))
    if len(mean) not in (7, 8):  # said elsewhere, with the sizes
        return
    turn = float(np.abs(np.concatenate([low[ROTATION], high[ROTATION]])).max())
    apart = abs(float(mean[6] + mean[7])) if len(mean) == 8 else 0.0
    if turn > FULL_TURN or apart > MIRRORED:
        seen = (
            f"rotations of up to {turn:.2f} radians" if turn > FULL_TURN else f"means of {mean[6:].tolist()}"
        )
        raise FoveaError(
            "expected states of position (metres), axis-angle (radians) and gripper (two fingers, if there are "
            f"two, that mirror one another), got {seen}; set --policy.state_layout=as_is for another robot"
        )
