"""Moments of LIBERO scenes with what each pixel shows: what maps are measured on.

Shape letters: S side of a picture in pixels, gh x gw patch grid.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fovea.data.dataset import open_dataset
from fovea.errors import FoveaError
from fovea.evaluation import episodes
from fovea.evaluation.actor import Observation
from fovea.lens.nouns import Noun, goal_objects, nouns
from fovea.lens.word_maps import CAMERA_NAMES, SIM_CAMERAS
from fovea.sim import bddl
from fovea.sim.catalogue import CATALOGUE
from fovea.sim.env import LiberoEnv
from fovea.sim.expert import Expert, NoGrasp, UnsupportedGoal
from fovea.sim.layout import EpisodeStart
from fovea.sim.render import Camera, RenderSettings
from fovea.sim.suites import get_task, get_tasks

EVERY = 20  # steps between moments: one second
HELD_BACK = 20  # `fovea collect` leaves the last so many official initial states alone


@dataclass(frozen=True)
class Moment:
    """One state of a scene, seen by both cameras.

    Attributes:
        start: where the episode began.
        step: how many steps ago.
        instruction: what the policy is told.
        nouns: the noun phrases of the instruction.
        targets, destinations: objects that the goal moves or switches, and that receive things.
        objects: names of the scene's objects, in the order of the labels.
        labels: camera -> (S, S) index into `objects`, -1 elsewhere.
        observations: side of the pictures in pixels -> observation with pictures of that side.
    """

    start: EpisodeStart
    step: int
    instruction: str
    nouns: list[Noun]
    targets: frozenset[str]
    destinations: frozenset[str]
    objects: list[str]
    labels: dict[str, NDArray[np.int16]]
    observations: dict[int, Observation]

    def mask(self, camera: str, names: Iterable[str]) -> NDArray[np.bool_]:
        """Where any of these objects is visible, (S, S)."""
        return np.isin(self.labels[camera], [self.objects.index(name) for name in names])

    def picture(self, camera: str) -> NDArray[np.uint8]:
        """What a camera sees, at the largest size."""
        key = next(key for key, name in CAMERA_NAMES.items() if name == camera)
        return self.observations[max(self.observations)][key]


class Photographer:
    """Takes moments of one environment, with pictures of several sizes.

    Args:
        env: pictures of its own size come from itself, and the labels; its size is the largest.
        sizes: sides of the pictures, pixels.
    """

    def __init__(self, env: LiberoEnv, sizes: Sequence[int]) -> None:
        self.env = env
        settings = env.render_settings
        if max(sizes) > settings.image_size:
            raise FoveaError(
                f"expected sizes up to the environment's {settings.image_size}, got {max(sizes)}"
            )
        self._cameras = {
            size: Camera(env.model, dataclasses.replace(settings, image_size=size))
            for size in set(sizes) - {settings.image_size}
        }

    def take(self, start: EpisodeStart, step: int = 0) -> Moment:
        """The present moment of an episode that began at `start`, so many steps ago."""
        env = self.env
        observation = env.observe()
        observations = {env.render_settings.image_size: observation}
        for size, camera in self._cameras.items():
            pictures = {key: camera.image(env.data, SIM_CAMERAS[name]) for key, name in CAMERA_NAMES.items()}
            observations[size] = observation | pictures
        goal = env.sim_env.parsed_problem["goal_state"]
        targets, destinations = goal_objects(goal, env.object_names)
        return Moment(
            start,
            step,
            env.instruction,
            nouns(env.instruction, env.object_names, goal),
            frozenset(targets),
            frozenset(destinations),
            list(env.object_names),
            {name: env.segmentation(sim_name) for name, sim_name in SIM_CAMERAS.items()},
            observations,
        )

    def close(self) -> None:
        """Free the cameras; the environment stays."""
        for camera in self._cameras.values():
            camera.close()


def take_moments(
    starts: Sequence[EpisodeStart], sizes: Sequence[int], count: int = 1
) -> Iterator[list[Moment]]:
    """The moments of every start; starts of one task in a row share its environment.

    Args:
        starts: the scenes.
        sizes: sides of the pictures that are wanted, pixels.
        count: moments of an episode: its first, and further ones while the scripted expert plays it, `EVERY` steps
            apart. There are fewer where the task is done earlier, or where the expert cannot do it.
    """
    settings = RenderSettings(image_size=max(sizes))
    for (suite, task_id), some in groupby(starts, key=lambda start: (start.suite, start.task_id)):
        env = LiberoEnv(suite, task_id, render=settings)
        with closing(env), closing(Photographer(env, sizes)) as photographer:
            for start in some:
                env.reset(start)
                yield list(_along(photographer, start, count))


def _along(photographer: Photographer, start: EpisodeStart, count: int) -> Iterator[Moment]:
    env = photographer.env
    yield photographer.take(start)
    if count == 1:
        return
    try:
        expert = Expert(env)
        for step in range(1, (count - 1) * EVERY + 1):
            if env.step(expert.act()):
                return
            if step % EVERY == 0:
                yield photographer.take(start, step)
    except (UnsupportedGoal, NoGrasp):  # no more moments of this scene
        return


def choose_starts(
    suites: Sequence[str], tasks: Sequence[int], scenes: int, layout: str, seed: int
) -> list[EpisodeStart]:
    """So many scenes of every task: official initial states that `fovea collect` leaves alone, or layouts drawn anew.

    Raises:
        FoveaError: unknown suite or task, or more scenes than official states.
    """
    starts = []
    for suite in suites:
        for task_id in tasks or [task.task_id for task in get_tasks(suite)]:
            count = len(get_task(suite, task_id).initial_states())
            if layout != "official":
                starts += episodes.drawn(
                    suite, [task_id], scenes, layout=layout, seed=seed, init_states=range(count)
                )
                continue
            if scenes > count:
                raise FoveaError(
                    f"scenes: {suite} task {task_id} has {count} official initial states, got {scenes}; "
                    "ask for fewer or take --layout drawn"
                )
            first = max(0, count - max(HELD_BACK, scenes))
            starts += episodes.official(suite, [task_id], range(first, first + scenes), seed=seed)
    return starts


def named_in_data(root: Path) -> frozenset[str]:
    """The object types that the training instructions of a data set name, in the scenes they were given in.

    Where the data set does not say how its episodes began (foreign ones), every type that a phrase is true of counts.
    """
    named: set[str] = set()
    asked: set[tuple[str, str, int]] = set()
    for episode in open_dataset(root).select("train"):
        start = episode.record.get("start") or {}
        question = (episode.task, start.get("suite", ""), start.get("task_id", -1))
        if question not in asked:
            asked.add(question)
            present = [f"{kind}_1" for kind in CATALOGUE]
            if {"suite", "task_id"} <= start.keys():
                task = get_task(start["suite"], start["task_id"])
                present = bddl.instances(task.bddl_file.read_text())
            named.update(*(noun.types for noun in nouns(episode.task, present, ())))
    return frozenset(named)
