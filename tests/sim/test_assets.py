"""Light scenes: physics to the bit, pictures nearly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fovea.sim import EpisodeStart, LiberoEnv, RenderSettings
from fovea.sim.simplify import Mesh, simplify, weld

PHYSICS = (
    "body_",
    "jnt_",
    "dof_",
    "actuator_",
    "eq_",
    "tendon_",
    "wrap_",
    "site_",
    "sensor_",
    "pair_",
    "exclude_",
    "qpos",
    "key_",
)
DRAWING = {"dof_length"}  # a length scale that only MuJoCo's sleeping islands use; it looks at all geoms


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def mesh_vertices(model, geom: int) -> np.ndarray:
    mesh = model.geom_dataid[geom]
    return model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]


@pytest.mark.parametrize("scene", ["object_env", "spatial_env"])
def test_light_scene_has_the_physics_and_nearly_the_looks_of_the_stock_one(scene, request):
    env: LiberoEnv = request.getfixturevalue(scene)
    stock_env = LiberoEnv(env.task.suite, env.task.task_id, render=RenderSettings(stock=True))
    start = EpisodeStart(env.task.suite, env.task.task_id, 2)
    for either in (env, stock_env):
        either.reset(start)
    light, stock = env.model, stock_env.model
    assert light.nmeshface < 0.4 * stock.nmeshface
    assert light.ntexdata < stock.ntexdata

    colliding = (stock.geom_contype != 0) | (stock.geom_conaffinity != 0)
    for name in dir(stock):
        expected = getattr(stock, name)
        if not isinstance(expected, np.ndarray) or name in DRAWING:
            continue
        if name.startswith(PHYSICS):
            np.testing.assert_array_equal(getattr(light, name), expected, err_msg=name)
        elif name.startswith("geom_") and len(expected) == stock.ngeom and name != "geom_dataid":
            np.testing.assert_array_equal(getattr(light, name)[colliding], expected[colliding], err_msg=name)
    for geom in np.flatnonzero(colliding & (stock.geom_dataid >= 0)):
        np.testing.assert_array_equal(mesh_vertices(light, geom), mesh_vertices(stock, geom))

    action = np.array([0.4, -0.3, -0.8, 0.1, 0, 0.2, 1])
    for either in (env, stock_env):
        for _ in range(10):
            either.step(action)
    np.testing.assert_array_equal(env.data.qpos, stock_env.data.qpos)
    for camera in ("image", "image2"):
        assert psnr(env.image(camera), stock_env.image(camera)) > 30
    stock_env.close()


def test_assets_are_made_once_and_shared(object_env, asset_cache):
    files = sorted(Path(asset_cache, "assets").iterdir())
    assert files
    assert not [f for f in files if f.name.endswith(".part")]
    times = {f: f.stat().st_mtime_ns for f in files}
    LiberoEnv("libero_object", 4).close()
    assert {f: f.stat().st_mtime_ns for f in Path(asset_cache, "assets").iterdir()} == times


def test_simplify_keeps_a_box_sharp():
    """A finely meshed cube becomes twelve triangles and keeps its six normals."""
    n = 8
    corners, normals = [], []
    for axis in range(3):
        for side in (0, 1):
            for i in range(n):
                for j in range(n):
                    quad = np.zeros((4, 3))
                    quad[:, axis] = side
                    square = np.array([(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]) / n
                    quad[:, [(axis + 1) % 3, (axis + 2) % 3]] = square if side else square[::-1]
                    corners += [quad[[0, 1, 2]], quad[[0, 2, 3]]]
                    normals += [np.tile(np.eye(3)[axis] * (2 * side - 1), (3, 1))] * 2
    full = weld(np.array(corners), np.array(normals), None)
    assert len(full.vertices) == 6 * (n + 1) ** 2
    light: Mesh = simplify(full, target_error=0.005, min_faces=4)
    assert len(light.faces) == 12
    assert {tuple(x) for x in np.round(light.normals)} == {tuple(s * x) for x in np.eye(3) for s in (-1, 1)}
    np.testing.assert_allclose(np.ptp(light.vertices, axis=0), 1)
