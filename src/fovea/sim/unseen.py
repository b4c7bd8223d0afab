"""Tasks that no published policy was trained on, made from LIBERO's: `python -m fovea.sim.unseen` writes them.

`fovea_unseen`: the ten unseen tasks of EF-VLA (Table 3), which the paper made from LIBERO-90 tasks by changing
instruction, type and colour of the target in the BDDL files. It does not name the scenes: they are our choice.
`libero_object_holdout`: libero_object's scenes with the targets that `fovea reproduce first` holds out of training,
and object positions drawn anew.

Every task gets seeded initial states as they were drawn: physics only decides which draws are taken, so that a second
run writes the same files, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea.data.files import atomic_write, write_json
from fovea.errors import FoveaError
from fovea.progress import progress_bar
from fovea.sim import bddl, registry
from fovea.sim.env import SETTLING_ACTION, build_sim_env, numpy_seed, reset_sim_env
from fovea.sim.layout import TARGET_SUITE, draw_on_floor, instruction_for, lift_out
from fovea.sim.render import RenderSettings
from fovea.sim.suites import SETTLING_STEPS, get_task, get_tasks

STATES = 20
TRIES = 50
FURNITURE_DRAWS = 3  # an initial state must be stable wherever the furniture is drawn
SHIFT, TILT, SPEED = (
    0.03,
    0.2,
    0.05,
)  # metres, radians: what an object may move while it settles; m/s afterwards

HELD_OUT = (  # libero_object's scene -> target; each scene holds it, and none of its official positions is used
    "milk", "cream_cheese", "cream_cheese", "cream_cheese", "milk", "milk", "bbq_sauce", "milk", "bbq_sauce",
    "bbq_sauce",
)  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """A task made from one of LIBERO's.

    Attributes:
        suite: the source's suite.
        source: the source's name.
        name: the new task's name.
        language: the new instruction.
        types: object types that are replaced, old -> new.
        goal: object or place in the goal that is replaced, (old, new).
        regions: start regions that are moved, see `bddl.move`.
    """

    suite: str
    source: str
    name: str
    language: str
    types: Mapping[str, str] = field(default_factory=dict)
    goal: tuple[str, str] | None = None
    regions: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)

    def text(self) -> str:
        """The new task's BDDL file."""
        text = bddl.retype(get_task(self.suite, self.source).bddl_file.read_text(), self.types)
        if self.goal is not None:
            text = bddl.retarget(text, *self.goal)
        for region, box in self.regions.items():
            text = bddl.move(text, region, box)
        made = f"; Made from LIBERO's {self.suite}/{self.source}.bddl (MIT licence) by fovea.sim.unseen\n"
        return made + bddl.say(text, self.language).strip() + "\n"


def _unseen(source: str, language: str, **changes: Any) -> Edit:
    scene = source[: source.index("_", source.index("SCENE"))]
    return Edit("libero_90", source, f"{scene}_{language.replace(' ', '_')}", language, **changes)


def ef_vla_tasks() -> tuple[Edit, ...]:
    """EF-VLA's ten, in the order and the words of its Table 3."""
    mug_in_front = "KITCHEN_SCENE6_put_the_yellow_and_white_mug_to_the_front_of_the_white_mug"
    return (
        _unseen(
            "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet",
            "put the moka pot in the bottom drawer of the cabinet",
            types={"akita_black_bowl": "moka_pot"},
        ),
        _unseen(
            "KITCHEN_SCENE4_put_the_wine_bottle_on_the_wine_rack",
            "put the moka pot on the wine rack",
            types={"wine_bottle": "moka_pot"},
            # LIBERO's region on the rack ends 2.2 cm above a shelf: the middle of a pot never gets there
            goal=("wine_rack_1_top_region", "wine_rack_1"),
            # away from the open drawer, which a bottle clears and a pot does not
            regions={"wine_bottle_init_region": (-0.175, -0.075, -0.125, -0.025)},
        ),
        _unseen(
            "LIVING_ROOM_SCENE2_pick_up_the_milk_and_put_it_in_the_basket",
            "pick up the ketchup and put it in the basket",
            goal=("milk_1", "ketchup_1"),
        ),
        _unseen(
            "KITCHEN_SCENE5_put_the_black_bowl_on_the_plate",
            "pick up the ketchup on the plate",
            goal=("akita_black_bowl_1", "ketchup_1"),
        ),
        _unseen(
            "LIVING_ROOM_SCENE4_pick_up_the_salad_dressing_and_put_it_in_the_tray",
            "pick up the bottle and put it in the tray",
            types={"new_salad_dressing": "wine_bottle"},
        ),
        _unseen(
            "KITCHEN_SCENE9_put_the_white_bowl_on_top_of_the_cabinet",
            "put the black bowl on top of the cabinet",
            types={"white_bowl": "akita_black_bowl"},
        ),
        _unseen(
            "KITCHEN_SCENE7_put_the_white_bowl_on_the_plate",
            "put the black bowl on the plate",
            types={"white_bowl": "akita_black_bowl"},
        ),
        _unseen(
            "LIVING_ROOM_SCENE6_put_the_chocolate_pudding_to_the_right_of_the_plate",
            "put the red mug to the right of the plate",
            goal=("chocolate_pudding_1", "red_coffee_mug_1"),
        ),
        _unseen(
            mug_in_front,
            "put the yellow and white mug in the front of the red mug",
            types={"porcelain_mug": "red_coffee_mug"},
        ),
        _unseen(
            mug_in_front,
            "put the red mug to the front of the moka",
            types={"white_yellow_mug": "red_coffee_mug", "porcelain_mug": "moka_pot"},
        ),
    )


def holdout_tasks() -> tuple[Edit, ...]:
    """libero_object's ten scenes, each with a target that training never picks."""
    tasks = get_tasks(TARGET_SUITE)
    languages = {task.name: task.language for task in tasks}
    edits = []
    for number, (task, target) in enumerate(zip(tasks, HELD_OUT, strict=True)):
        language = instruction_for(target, languages)
        own = task.name.removeprefix("pick_up_the_").removesuffix("_and_place_it_in_the_basket")
        edits.append(
            Edit(
                TARGET_SUITE,
                task.name,
                f"SCENE{number}_{language.replace(' ', '_')}",
                language,
                goal=None if own == target else (f"{own}_1", f"{target}_1"),
            )
        )
    return tuple(edits)


SUITES = {
    "fovea_unseen": ("libero_90", ef_vla_tasks),
    "libero_object_holdout": (TARGET_SUITE, holdout_tasks),
}


def write_task(edit: Edit, folder: Path) -> None:
    """Write a task's BDDL file and its initial states.

    Raises:
        FoveaError: no placement was found in which the objects stay where they are put.
    """
    path = folder / f"{edit.name}.bddl"
    path.write_text(edit.text())
    with atomic_write(folder / f"{edit.name}.npz") as file:
        np.savez(file, states=draw_states(edit, path))


def draw_states(edit: Edit, bddl_file: Path, count: int = STATES) -> NDArray[np.float64]:
    """Initial states (count, 1 + nq + nv) of a task, each from a seed of its own.

    A draw that leaves an object sliding or toppling, or the task solved, is drawn again.
    """
    with numpy_seed(0):
        sim_env = build_sim_env(str(bddl_file), RenderSettings())
    sim_env._observables.clear()
    official = get_task(TARGET_SUITE, edit.source).initial_states() if edit.suite == TARGET_SUITE else None
    draws = FURNITURE_DRAWS if official is None else 1  # there is none on the floor
    states = []
    for number in range(count):
        for attempt in range(TRIES):
            seed = zlib.crc32(f"{edit.name} {number} {attempt}".encode())
            with numpy_seed(seed):
                reset_sim_env(sim_env)
            if official is not None:
                sim_env.sim.set_state_from_flattened(official[number])
                draw_on_floor(sim_env, seed)
            else:
                lift_out(sim_env)
            state = sim_env.sim.get_state().flatten()
            if all(_stays(sim_env, state, seed) for seed in range(draws)):
                states.append(state)
                break
        else:
            raise FoveaError(f"{edit.name}: no stable placement of all objects in {TRIES} draws")
    sim_env.close()
    return np.stack(states)


def _stays(sim_env: Any, state: NDArray, seed: int) -> bool:
    """Whether everything stays where it is put, with the furniture where a seed puts it, and the goal does not hold."""
    with numpy_seed(seed):
        reset_sim_env(sim_env)
    sim_env.sim.set_state_from_flattened(state)
    sim_env.sim.forward()
    data = sim_env.sim.data._data
    bodies = [sim_env.obj_body_id[name] for name in sim_env.objects_dict]
    place, pose = data.xpos[bodies, :2].copy(), data.xmat[bodies].reshape(-1, 3, 3).copy()
    for _ in range(SETTLING_STEPS):
        done = sim_env.step(SETTLING_ACTION)[2]
    trace = np.einsum("nij,nij->n", pose, data.xmat[bodies].reshape(-1, 3, 3))
    tilt = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    shift = np.abs(data.xpos[bodies, :2] - place)
    speed = np.abs(data.cvel[bodies, 3:])
    return bool(not done and shift.max() < SHIFT and tilt.max() < TILT and speed.max() < SPEED)


def write_suite(name: str, folder: Path) -> None:
    """Write one of `SUITES` as a folder: suite.json, and a BDDL file and initial states for each task."""
    base, edits = SUITES[name][0], SUITES[name][1]()
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar() as bar:
        task = bar.add_task(name, total=len(edits), note="")
        for edit in edits:
            write_task(edit, folder)
            bar.advance(task)
    write_json(folder / "suite.json", {"base": base, "tasks": [edit.name for edit in edits]})


def main() -> None:
    """`python -m fovea.sim.unseen [--out DIR]`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=registry.OWN_SUITES, help="folder of the suites")
    out = parser.parse_args().out
    for name in SUITES:
        write_suite(name, out / name)
    print(json.dumps({name: str(out / name) for name in SUITES}))


if __name__ == "__main__":
    main()
