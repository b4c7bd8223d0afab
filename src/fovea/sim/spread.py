"""A layout in which the objects on a table lie anywhere that some object of the scene may lie.

In libero_90 and most other suites every object keeps to a spot of 5 cm, in every episode of a scene: where to go
follows from the instruction alone, and a policy that learns it so never has to look. Here the spots are drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea.errors import FoveaError
from fovea.sim.bddl import is_of, object_type
from fovea.sim.geometry import Rectangle, footprint, pose_of

PADDING = 0.08  # metres by which the table's area for objects is wider than the regions of the BDDL file
CLEARANCE = 0.03  # least distance between two footprints, metres: room for a finger
GOAL_SPOT = 0.06  # half the side of the square around a goal region on the table that stays free, metres
REACH = 0.72  # metres from the arm's base; farther out it is straight, and a straight arm gets stuck
POINTS, ROUNDS = 200, 40  # tries to find room for one object, and for all
WIDER = (0.0, 0.04, 0.08, 0.12)  # metres that are added where there is no room: a pan's handle is long


def spread(sim_env: Any, seed: int) -> None:
    """Draw new places for `movable` objects of a scene, headings and heights kept.

    Uniform over the smallest rectangle that holds the objects' regions, `PADDING` wider; at least `CLEARANCE` from
    everything else, from the place on the table where the goal is, and within `REACH`.

    Args:
        sim_env: robosuite's environment, in any state of the task; its kinematics need not be current.
        seed: draws the places.

    Raises:
        FoveaError: there is no room.
    """
    import mujoco

    table = sim_env.workspace_name
    if not (movers := movable(sim_env.parsed_problem, table)):
        return
    model, data = sim_env.sim.model._model, sim_env.sim.data._data
    mujoco.mj_kinematics(model, data)
    bodies = {name: body for name, body in sim_env.obj_body_id.items() if name != table}
    prints = {name: footprint(model, data, body) for name, body in bodies.items()}
    fixed = [prints[name].wider(CLEARANCE) for name in bodies if name not in movers]
    fixed += [Rectangle(spot - GOAL_SPOT, spot + GOAL_SPOT) for spot in _goal_spots(sim_env)]
    largest_first = sorted(movers, key=lambda name: -prints[name].area)
    shapes = [prints[name].moved(-data.xpos[bodies[name], :2]) for name in largest_first]
    base = np.asarray(sim_env.robots[0].base_pos)[:2]
    area = _area(sim_env)
    rng = np.random.default_rng(seed)
    tries = (_draw(rng, shapes, fixed, area.wider(by), base) for by in WIDER for _ in range(ROUNDS))
    points = next((found for found in tries if found is not None), None)
    if points is None:
        raise FoveaError(
            f"expected room on the table for {', '.join(movers)}, found none; take --layout drawn for this task"
        )
    for name, point in zip(largest_first, points, strict=True):
        pose_of(sim_env, name)[:2] = point


def movable(problem: dict[str, Any], table: str) -> list[str]:
    """The objects of a task that may lie elsewhere without making its instruction false.

    They stand on the table itself, are the only one of their kind (the left of two bowls is to stay the left one),
    carry nothing and are no basket or tray. Where the goal is a place on the table, such as "to the right of the
    plate", what it is said of stays too: LIBERO's regions do not move with it.

    Args:
        problem: a task as LIBERO parses its BDDL file.
        table: the name of what objects stand on, such as "kitchen_table".
    """
    several = {_noun(kind) for kind, names in problem["objects"].items() if len(names) > 1}
    single = {names[0] for kind, names in problem["objects"].items() if _noun(kind) not in several}
    places = {name: place for _, name, place in _triples(problem["initial_state"])}
    goals = _triples(problem["goal_state"])
    stays = {name for name in single for place in places.values() if is_of(place, name)}
    stays |= {name for name in single for _, _, place in goals if place == f"{name}_contain_region"}
    if spots := [goal for goal in goals if is_of(goal[2], table)]:
        stays |= set(problem["obj_of_interest"]) - {name for _, name, _ in goals}
        stays |= {
            name for name in single for _, own, place in spots if name != own and object_type(name) in place
        }
    return sorted(name for name in single - stays if is_of(places.get(name, ""), table))


def _noun(kind: str) -> str:
    """book of black_book: an instruction may tell a black book from two yellow ones by where they are."""
    return kind.rsplit("_", 1)[-1]


def _triples(predicates: list[list[str]]) -> list[list[str]]:
    """Those about two things, such as (on, plate_1, table_region)."""
    return [predicate for predicate in predicates if len(predicate) == 3]


def _goal_spots(sim_env: Any) -> list[NDArray]:
    """Where on the table the goal's regions are, (2,) each in metres."""
    goals, table = _triples(sim_env.parsed_problem["goal_state"]), sim_env.workspace_name
    return [sim_env.sim.data.get_site_xpos(place)[:2] for _, _, place in goals if is_of(place, table)]


def _area(sim_env: Any) -> Rectangle:
    """The smallest rectangle around the regions in which a scene's objects start, `PADDING` wider."""
    problem, table = sim_env.parsed_problem, sim_env.workspace_name
    objects = {name for names in problem["objects"].values() for name in names}
    boxes = [
        box
        for _, name, place in _triples(problem["initial_state"])
        if name in objects and is_of(place, table)
        for box in problem["regions"][place]["ranges"]
    ]
    corners = np.array(boxes, float).reshape(-1, 2, 2) + np.asarray(sim_env.workspace_offset)[:2]
    return Rectangle(corners.min((0, 1)), corners.max((0, 1))).wider(PADDING)


def _draw(
    rng: np.random.Generator,
    shapes: list[Rectangle],
    fixed: list[Rectangle],
    area: Rectangle,
    base: NDArray,
) -> list[NDArray] | None:
    """A point (2,) for every shape, or None where one of them found no room."""
    points: list[NDArray] = []
    taken = list(fixed)
    for shape in shapes:
        for point in rng.uniform(area.low, area.high, (POINTS, 2)):
            there = shape.moved(point)
            if np.linalg.norm(point - base) <= REACH and not any(there.meets(other) for other in taken):
                points.append(point)
                taken.append(there.wider(CLEARANCE))
                break
        else:
            return None
    return points
