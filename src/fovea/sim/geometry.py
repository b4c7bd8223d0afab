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
        model: MuJoCo's model; data: its data, kinematics current.
        body: number of an object's or a fixture's body, which hangs on nothing.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for geom in np.flatnonzero(model.body_rootid[model.geom_bodyid] == body):
        centre, half = model.geom_aabb[geom][:3], model.geom_aabb[geom][3:]
        corners = centre + half * np.array(list(product((-1, 1), repeat=3)))
        there = (data.geom_xpos[geom] + corners @ data.geom_xmat[geom].reshape(3, 3).T)[:, :2]
        low, high = np.minimum(low, there.min(0)), np.maximum(high, there.max(0))
    return Rectangle(low, high)


def pose_of(sim_env: Any, name: str) -> NDArray[np.float64]:
    """Position and wxyz quaternion (7,) of an object that lies loose: a view, what is written there moves it."""
    model, data = sim_env.sim.model._model, sim_env.sim.data._data
    address = model.jnt_qposadr[model.body_jntadr[sim_env.obj_body_id[name]]]
    return data.qpos[address : address + 7]
