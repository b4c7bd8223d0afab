"""robosuite's steps of 2 ms, each computed once instead of three times, with the same outcome to the bit.

In every one robosuite calls `forward`, its controller calls `forward` again, and MuJoCo's `step` begins with the same
computation. The controller reads positions and velocities only: they are computed when first asked for, and the step
goes on from there (MuJoCo's `mj_step1` and `mj_step2`).
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def thrifty_sim() -> type:
    """robosuite's MjSim with a switch, `stepping`: while it is on, `forward` may be called as often as one likes."""
    import mujoco
    from robosuite.utils.binding_utils import MjSim

    class ThriftySim(MjSim):
        stepping = False
        half_way = False

        def forward(self) -> None:
            if not self.stepping:
                super().forward()
            elif not self.half_way:
                mujoco.mj_step1(self.model._model, self.data._data)
                self.half_way = True

        def step(self, with_udd: bool = True) -> None:
            if not self.half_way:
                super().step(with_udd)
            else:
                mujoco.mj_step2(self.model._model, self.data._data)
                self.half_way = False

    return ThriftySim


def thrifty_step(problem: type) -> Any:
    """The method `step` of a LIBERO problem class, for objects whose `sim` is a `thrifty_sim()`."""

    def step(self: Any, action: Any) -> Any:
        self.sim.stepping = True
        try:
            return problem.step(self, action)  # type: ignore[attr-defined]
        finally:
            self.sim.stepping = self.sim.half_way = False

    return step
