"""Light scenes: physics to the bit, pictures nearly."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from fovea.errors import FoveaError
from fovea.sim import EpisodeStart, LiberoEnv, RenderSettings, assets
from fovea.sim.physics import differences
from fovea.sim.simplify import Mesh, simplify, weld


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


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

    assert differences(light, stock) == []

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
    assert not [f for f in files if f.suffix not in (".msh", ".png")]
    times = {f: f.stat().st_mtime_ns for f in files}
    LiberoEnv("libero_object", 4).close()
    assert {f: f.stat().st_mtime_ns for f in Path(asset_cache, "assets").iterdir()} == times


@pytest.fixture
def one_mesh(tmp_path, monkeypatch):
    """A scene with a finely meshed ball that nothing touches, in a cache of its own."""
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))
    ball = trimesh_ball(24)
    (tmp_path / "ball.msh").write_bytes(assets._msh_bytes(ball))
    return f"""<mujoco><asset><mesh name="ball" file="{tmp_path}/ball.msh"/></asset><worldbody><geom type="mesh"
        mesh="ball" contype="0" conaffinity="0" mass="0"/></worldbody></mujoco>"""


def trimesh_ball(n: int) -> Mesh:
    """A sphere of 4 n^2 triangles and a few."""
    theta, phi = np.meshgrid(np.linspace(0.01, np.pi - 0.01, n + 1), np.linspace(0, 2 * np.pi, 2 * n + 1))
    points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1).reshape(
        -1, 3
    )
    a = (np.arange(2 * n)[:, None] * (n + 1) + np.arange(n)).ravel()
    faces = np.concatenate([np.stack([a, a + 1, a + n + 2], 1), np.stack([a, a + n + 2, a + n + 1], 1)])
    return Mesh(points.astype(np.float32), points.astype(np.float32), None, faces.astype(np.int32))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"", lambda data: data[:-1] + b"!"]
)
def test_a_damaged_entry_is_made_again_and_said(one_mesh, tmp_path, damage):
    settings = RenderSettings(target_error=0.02, error_max=0.1)
    whole = settings.compile(one_mesh)
    assert whole.nmeshface < 0.7 * RenderSettings(stock=True).compile(one_mesh).nmeshface
    (path,) = (tmp_path / "cache" / "assets").iterdir()
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with pytest.warns(UserWarning, match=f"{path.name} is damaged: made again"):
        again = settings.compile(one_mesh)
    np.testing.assert_array_equal(again.mesh_vert, whole.mesh_vert)
    assert path.read_bytes() == good


def test_a_full_disk_is_named(one_mesh, tmp_path, monkeypatch):
    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FoveaError, match=rf"disk of {tmp_path}/cache/assets is full"):
        RenderSettings().compile(one_mesh)
    assert list((tmp_path / "cache" / "assets").iterdir()) == []


def test_a_stopped_process_leaves_nothing_half_written(one_mesh, tmp_path, monkeypatch):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RenderSettings().compile(one_mesh)
    assert list((tmp_path / "cache" / "assets").iterdir()) == []


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
