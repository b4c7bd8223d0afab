"""Is the light scene the stock scene to physics? What of a compiled model moves things, compared number by number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fovea.sim.env import build_sim_env
from fovea.sim.suites import Task, get_tasks

if TYPE_CHECKING:
    import mujoco

PARTS = ("actuator_ body_ dof_ eq_ exclude_ jnt_ key_ pair_ qpos sensor_ site_ tendon_ wrap_").split()
DRAWING = {"dof_length"}  # a length scale that only MuJoCo's sleeping islands use; it looks at all geoms


def distinct_scenes(suites: Iterable[str]) -> list[Task]:
    """One task of every combination of arena, furniture and objects in some suites, the first that has it.

    Tasks of one combination differ in where things stand, what is said and what is wanted: not in the compiled model.
    """
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    found: dict[tuple[Any, ...], Task] = {}
    for task in (task for suite in suites for task in get_tasks(suite)):
        problem = robosuite_parse_problem(str(task.bddl_file))
        kinds = [
            sorted((kind, len(names)) for kind, names in problem[part].items())
            for part in ("fixtures", "objects")
        ]
        found.setdefault((problem["problem_name"], *map(tuple, kinds)), task)
    return list(found.values())


def scene_xml(task: Task) -> str:
    """The MJCF that LIBERO hands to MuJoCo for a task; nothing is compiled."""
    reader = _Reader()
    try:
        build_sim_env(str(task.bddl_file), reader)  # type: ignore[arg-type]
    except _Read:
        return reader.xml
    raise RuntimeError(f"LIBERO compiled no scene for {task.bddl_file}")


def differences(light: mujoco.MjModel, stock: mujoco.MjModel) -> list[str]:
    """Names of the physics arrays that are not equal to the bit; empty if light and stock scene move alike.

    Of geoms, those that can touch count, with the vertices, faces and convex hulls of their meshes.
    """
    wrong = [f"opt.{name}" for name in _fields(stock.opt) if not _same(light.opt, stock.opt, name)]
    touching = (stock.geom_contype != 0) | (stock.geom_conaffinity != 0)
    for name in _fields(stock):
        a, b = getattr(light, name), getattr(stock, name)
        if name.startswith(tuple(PARTS)) and name not in DRAWING:
            wrong += [name] if not np.array_equal(a, b) else []
        elif name.startswith("geom_") and name != "geom_dataid":
            wrong += [name] if not np.array_equal(a[touching], b[touching]) else []
    for geom in np.flatnonzero(touching & (stock.geom_dataid >= 0)):
        a, b = _mesh(light, light.geom_dataid[geom]), _mesh(stock, stock.geom_dataid[geom])
        wrong += [f"mesh of geom {geom}"] if not all(map(np.array_equal, a, b)) else []
    return wrong


class _Read(Exception):
    """Ends the making of an environment once its scene was read."""


class _Reader:
    """Stands where render settings stand and keeps the scene instead of compiling it."""

    xml = ""

    def compile(self, xml: str) -> mujoco.MjModel:
        self.xml = xml
        raise _Read


def _fields(of: Any) -> list[str]:
    return [
        name
        for name in dir(of)
        if not name.startswith("_") and isinstance(getattr(of, name), np.ndarray | float)
    ]


def _same(light: Any, stock: Any, name: str) -> bool:
    return np.array_equal(getattr(light, name), getattr(stock, name))


def _mesh(model: mujoco.MjModel, mesh: int) -> tuple[NDArray, NDArray, NDArray]:
    """Vertices, faces and convex hull."""
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    faces = model.mesh_face[model.mesh_faceadr[mesh] :][: model.mesh_facenum[mesh]]
    hull = model.mesh_graphadr[mesh]
    graph = (
        model.mesh_graph[hull:][: 2 + 3 * model.mesh_graph[hull] + 6 * model.mesh_graph[hull + 1]]
        if hull >= 0
        else []
    )
    return vertices, faces, np.asarray(graph)
