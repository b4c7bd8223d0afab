"""Disturbances of the executed action: the demonstrations then show how to come back.

The label stays the expert's clean action, so a policy sees states off the expert's path together with what the
expert does there (noise injection as in DART, Laskey et al. 2017; recoveries from pushes, early grasps and drops).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CORRELATION = 0.7  # of the noise from one step to the next
ROTATION_SHARE = 0.3  # rotation noise, relative to translation noise
NEAR = 0.08  # metres from the object within which fingers may close too early


@dataclass(frozen=True)
class Event:
    """One recovery to be shown.

    Attributes:
        kind: "push" replaces the translation, "clench" closes the fingers too early, "drop" opens them on the way.
        start: first step at which it may begin.
        steps: how long it lasts.
        push: (3,) translation of a push, in action units.
    """

    kind: str
    start: int
    steps: int
    push: Array


class Disturbance:
    """Turns clean actions into executed ones for one episode.

    Args:
        rng: draws everything.
        noise: standard deviation of the translation noise in action units (1.0 = 5 cm).
        recovery: whether the episode holds pushes, early grasps or drops beside the noise.
    """

    def __init__(self, rng: np.random.Generator, noise: float, recovery: bool) -> None:
        self._rng, self._noise = rng, noise
        self._scale = np.array([1, 1, 1, ROTATION_SHARE, ROTATION_SHARE, ROTATION_SHARE])
        self._drift = np.zeros(6)
        self._events = self._draw_events() if recovery else []
        self._left = 0
        self._event: Event | None = None

    def _draw_events(self) -> list[Event]:
        rng = self._rng
        kinds = rng.choice(["push", "clench", "drop"], size=int(rng.integers(1, 3)), p=[0.6, 0.25, 0.15])
        events = []
        for kind in kinds:
            direction = rng.normal(size=3) * [1.0, 1.0, 0.6]
            push = direction / np.linalg.norm(direction) * rng.uniform(0.6, 1.0)
            lengths = {"push": int(rng.integers(4, 9)), "clench": int(rng.integers(6, 10)), "drop": 4}
            events.append(Event(str(kind), int(rng.integers(5, 80)), lengths[str(kind)], push))
        return sorted(events, key=lambda event: event.start)

    def apply(self, action: Array, step: int, *, holding: bool, distance: float) -> Array:
        """The executed action (7,) for a clean one.

        Args:
            action: (7,) in [-1, 1].
            step: number of the step in the episode.
            holding: whether the object is in the fingers.
            distance: from the grip site to the object, metres.
        """
        noise = self._rng.normal(size=6) * self._scale * self._noise
        self._drift = CORRELATION * self._drift + np.sqrt(1 - CORRELATION**2) * noise
        executed = action.copy()
        executed[:6] += self._drift
        if self._left == 0 and self._events and self._may_begin(self._events[0], step, holding, distance):
            self._event = self._events.pop(0)
            self._left = self._event.steps
        if self._left and self._event is not None:
            self._left -= 1
            if self._event.kind == "push":
                executed[:3] = self._event.push
            else:
                executed[6] = 1.0 if self._event.kind == "clench" else -1.0
        return np.clip(executed, -1.0, 1.0)

    @staticmethod
    def _may_begin(event: Event, step: int, holding: bool, distance: float) -> bool:
        fits = {"push": True, "clench": not holding and distance < NEAR, "drop": holding}[event.kind]
        return step >= event.start and fits
