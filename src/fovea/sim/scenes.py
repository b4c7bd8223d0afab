"""Random LIBERO scenes as BDDL text: an arena, some furniture, a handful of objects."""

from dataclasses import dataclass

import numpy as np

from fovea.sim.catalogue import CATALOGUE, GROCERIES

# arena: (problem class, name of the workspace, its type)
ARENAS: dict[str, tuple[str, str, str]] = {
    "floor": ("LIBERO_Floor_Manipulation", "floor", "floor"),
    "table": ("LIBERO_Tabletop_Manipulation", "main_table", "table"),
    "kitchen": ("LIBERO_Kitchen_Tabletop_Manipulation", "kitchen_table", "kitchen_table"),
    "living_room": ("LIBERO_Living_Room_Tabletop_Manipulation", "living_room_table", "living_room_table"),
    "study": ("LIBERO_Study_Tabletop_Manipulation", "study_table", "study_table"),
}
_ARENA_SHARES = {"floor": 0.45, "table": 0.2, "kitchen": 0.15, "living_room": 0.1, "study": 0.1}
_OFFICIAL_SHARE = 0.75  # of the floor scenes: libero_object's own composition
_SLOT = 0.35  # metres between the places where objects wait; the renderer moves them anyway


@dataclass(frozen=True)
class SceneSpec:
    """What a scene holds.

    Attributes:
        arena: key of `ARENAS`.
        objects: free object types.
        fixtures: furniture types.
    """

    arena: str
    objects: tuple[str, ...]
    fixtures: tuple[str, ...]


def draw_scene(rng: np.random.Generator) -> SceneSpec:
    """A random scene: libero_object's groceries and basket on the floor, or a mixture of everything."""
    arena = str(rng.choice(list(_ARENA_SHARES), p=list(_ARENA_SHARES.values())))
    if arena == "floor" and rng.random() < _OFFICIAL_SHARE:
        groceries = rng.choice(GROCERIES, size=int(rng.integers(6, 9)), replace=False)
        return SceneSpec(arena, (*map(str, groceries), "basket"), ())
    free = [name for name, entry in CATALOGUE.items() if entry.kind != "fixture"]
    objects = [str(name) for name in rng.choice(free, size=int(rng.integers(7, 11)), replace=False)]
    for name in list(objects[:3]):  # the same thing in another colour: what makes a colour word necessary
        siblings = [other for other in free if other not in objects and _siblings(name, other)]
        if siblings:
            objects.append(str(rng.choice(siblings)))
    furniture = [name for name, entry in CATALOGUE.items() if entry.kind == "fixture"]
    count = 0 if arena == "floor" else int(rng.integers(0, 3))
    fixtures = rng.choice(furniture, size=count, replace=False)
    return SceneSpec(arena, tuple(objects), tuple(map(str, fixtures)))


def _siblings(one: str, other: str) -> bool:
    a, b = CATALOGUE[one], CATALOGUE[other]
    return bool(set(a.nouns) & set(b.nouns)) and a.colours != b.colours


def bddl(spec: SceneSpec) -> str:
    """The scene in LIBERO's planning language; every object has a place of its own."""
    problem, workspace, kind = ARENAS[spec.arena]
    everything = [*spec.objects, *spec.fixtures]
    side = int(np.ceil(np.sqrt(len(everything))))
    regions, init = [], []
    for i, name in enumerate(everything):
        x, y = ((np.array(divmod(i, side)) - (side - 1) / 2) * _SLOT).round(3)
        box = f"({x - 0.01:.3f} {y - 0.01:.3f} {x + 0.01:.3f} {y + 0.01:.3f})"
        regions.append(f"({name}_place (:target {workspace}) (:ranges ({box})) (:yaw_rotation ((0.0 0.0))))")
        init.append(f"(On {name}_1 {workspace}_{name}_place)")
    fixtures = [f"{workspace} - {kind}", *(f"{name}_1 - {name}" for name in spec.fixtures)]
    objects = [f"{name}_1 - {name}" for name in spec.objects]
    first = spec.objects[0]
    return "\n".join(
        [
            f"(define (problem {problem})",
            "(:domain robosuite)",
            "(:language look at the scene)",
            "(:regions",
            *regions,
            ")",
            "(:fixtures",
            *fixtures,
            ")",
            "(:objects",
            *objects,
            ")",
            f"(:obj_of_interest {first}_1)",
            "(:init",
            *init,
            ")",
            f"(:goal (And (On {first}_1 {workspace}_{first}_place)))",
            ")",
        ]
    )
