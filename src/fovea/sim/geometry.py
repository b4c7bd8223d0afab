"""Where things stand, seen from above."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rectangle:
    """An upright rectangle on the table: its low and high corner (2,) in metres."""

    low: NDArray
    high: NDArray

    @property
    def area(self) -> float:
        return float(np.prod(self.high - self.low))

    def wider(self, by: float) -> Rectangle:
        return Rectangle(self.low - by, self.high + by)

    def moved(self, by: NDArray) -> Rectangle:
        return Rectangle(self.low + by, self.high + by)

    def meets(self, other: Rectangle) -> bool:
        return bool((self.low < other.high).all() and (other.low < self.high).all())


def footprint(model: Any, data: Any, body: int) -> Rectangle:
    """What a body and all that hangs on it cover from above: the boxes of its geoms, turned as they are.

    Args:
        model: MuJoCo's model; data: its data, kinematics current; body: number of the body.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for geom in np.flatnonzero(_belongs(model, body)[model.geom_bodyid]):
        centre, half = model.geom_aabb[geom][:3], model.geom_aabb[geom][3:]
        corners = centre + half * np.array(list(product((-1, 1), repeat=3)))
        there = (data.geom_xpos[geom] + corners @ data.geom_xmat[geom].reshape(3, 3).T)[:, :2]
        low, high = np.minimum(low, there.min(0)), np.maximum(high, there.max(0))
    return Rectangle(low, high)


def _belongs(model: Any, body: int) -> NDArray[np.bool_]:
    """For every body whether it is this one or hangs on it."""
    belongs = np.zeros(model.nbody, bool)
    belongs[body] = True
    for other in range(body + 1, model.nbody):  # parents come before children
        belongs[other] = belongs[model.body_parentid[other]]
    return belongs
