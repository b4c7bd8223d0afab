"""Light meshes and textures for LIBERO's scenes, made once and kept by content.

Only meshes that physics never sees are touched: a mesh that a colliding geom uses, or that gives a body its
mass, stays as it is, so every physics array of the compiled model equals the stock one (tests hold this).
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fovea.data.files import atomic_write, cache_root
from fovea.sim.simplify import Mesh, simplify, weld

if TYPE_CHECKING:
    import mujoco

VERSION = 2  # part of every key: raise it when the way of making assets changes
MIN_FACES = 200
KEPT_FRACTION = 0.9  # a mesh that keeps more of its faces than this is not worth a copy


def cache_folder() -> Path:
    """`assets/` in `$FOVEA_CACHE`, or in `~/.cache/fovea`."""
    return cache_root() / "assets"


def lighten(spec: mujoco.MjSpec, *, target_error: float, error_max: float, texture_max: int) -> None:
    """Point the scene's visual-only meshes and its large textures at light copies, making those that miss.

    Args:
        spec: a parsed scene, edited in place.
        target_error: how far a surface may move, as a fraction of its extent; 0 keeps all meshes.
        error_max: how far at most, in metres: it decides for furniture and rooms.
        texture_max: the longest side of a 2-D texture, in pixels; 0 keeps all textures.
    """
    if target_error > 0:
        physical = _physical_meshes(spec)
        for mesh in spec.meshes:
            if mesh.file and mesh.name not in physical:
                _lighten_mesh(mesh, target_error, error_max)
    if texture_max > 0:
        for texture in spec.textures:
            if texture.file:
                _lighten_texture(texture, texture_max)


def _physical_meshes(spec: mujoco.MjSpec) -> set[str]:
    """Names of meshes that a geom with contacts, with mass, or of a fitted primitive shape uses."""
    import mujoco

    paired = {name for pair in spec.pairs for name in (pair.geomname1, pair.geomname2)}
    low, high = spec.compiler.inertiagrouprange
    names = set()
    for geom in spec.geoms:
        collides = geom.contype or geom.conaffinity or geom.name in paired
        weighs = low <= geom.group <= high and geom.mass != 0 and geom.density != 0
        if geom.meshname and (collides or weighs or geom.type != mujoco.mjtGeom.mjGEOM_MESH):
            names.add(geom.meshname)
    return names


def _lighten_mesh(mesh: mujoco.MjsMesh, *errors: float) -> None:
    scale = [float(s) for s in mesh.scale]
    pose = [float(x) for x in (*mesh.refpos, *mesh.refquat)]
    key = _key("mesh", _content(mesh.file), scale, pose, int(mesh.smoothnormal), errors, MIN_FACES)
    path = _kept(key, ".msh", lambda: _light_mesh_bytes(mesh.file, scale, pose, *errors))
    if path.stat().st_size:  # an empty file says: keep the original
        mesh.file, mesh.content_type = str(path), ""
        mesh.scale, mesh.refpos, mesh.refquat = [1, 1, 1], [0, 0, 0], [1, 0, 0, 0]


def _light_mesh_bytes(
    file: str, scale: list[float], pose: list[float], target_error: float, error_max: float
) -> bytes:
    """A simplified copy in MuJoCo's binary mesh format, or nothing when there is no gain."""
    import mujoco

    spec = mujoco.MjSpec()
    spec.add_mesh(name="m", file=file, scale=scale, refpos=pose[:3], refquat=pose[3:])
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="m", contype=0, conaffinity=0, mass=0)
    model = spec.compile()
    if model.nmeshface <= MIN_FACES:
        return b""
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.mesh_quat[0])  # MuJoCo centres and aligns meshes: undo it
    turn = rotation.reshape(3, 3).T
    full = weld(
        (model.mesh_vert @ turn + model.mesh_pos[0])[model.mesh_face],
        (model.mesh_normal @ turn)[model.mesh_facenormal],
        model.mesh_texcoord[model.mesh_facetexcoord] if model.mesh_texcoordnum[0] else None,
    )
    extent = float(np.ptp(full.vertices, axis=0).max())
    light = simplify(full, target_error=min(target_error, error_max / extent), min_faces=MIN_FACES)
    return _msh_bytes(light) if len(light.faces) <= KEPT_FRACTION * model.nmeshface else b""


def _msh_bytes(mesh: Mesh) -> bytes:
    """MuJoCo's MSH format: four counts, then vertices, normals, texture coordinates and faces."""
    texcoords = mesh.texcoords if mesh.texcoords is not None else np.zeros((0, 2), np.float32)
    counts = np.array([len(mesh.vertices), len(mesh.normals), len(texcoords), len(mesh.faces)], "<i4")
    arrays = (mesh.vertices.astype("<f4"), mesh.normals.astype("<f4"), texcoords.astype("<f4"))
    return b"".join(a.tobytes() for a in (counts, *arrays, mesh.faces.astype("<i4")))


def _lighten_texture(texture: mujoco.MjsTexture, texture_max: int) -> None:
    import mujoco

    if texture.type != mujoco.mjtTexture.mjTEXTURE_2D or not texture.file.lower().endswith(".png"):
        return
    key = _key("texture", _content(texture.file), texture_max)
    path = _kept(key, ".png", lambda: _light_texture_bytes(texture.file, texture_max))
    if path.stat().st_size:
        # MuJoCo's `auto` reads the PNG's sRGB chunk, which OpenCV drops: the floor would brighten.
        if texture.colorspace == mujoco.mjtColorSpace.mjCOLORSPACE_AUTO:
            srgb = _has_srgb_chunk(texture.file)
            space = mujoco.mjtColorSpace
            texture.colorspace = space.mjCOLORSPACE_SRGB if srgb else space.mjCOLORSPACE_LINEAR
        texture.file = str(path)


def _light_texture_bytes(file: str, texture_max: int) -> bytes:
    """A smaller copy as PNG, or nothing when it is small enough (or no picture that OpenCV reads)."""
    import cv2

    image = cv2.imread(file, cv2.IMREAD_UNCHANGED)
    if image is None or max(image.shape[:2]) <= texture_max:
        return b""
    scale = texture_max / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return bytes(cv2.imencode(".png", cv2.resize(image, size, interpolation=cv2.INTER_AREA))[1])


def _has_srgb_chunk(file: str) -> bool:
    data = Path(file).read_bytes()
    position = 8
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind in (b"sRGB", b"IDAT"):
            return kind == b"sRGB"
        position += 12 + length
    return False


def _key(kind: str, *parts: object) -> str:
    return f"{kind}-" + hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()[:32]


def _content(file: str) -> str:
    status = os.stat(file)
    return _content_of(file, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4096)
def _content_of(file: str, mtime_ns: int, size: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kept(key: str, suffix: str, make: Callable[[], bytes]) -> Path:
    """The file of a cache entry, made if it is not there, and made again if its checksum (in its name) is wrong.

    Raises:
        FoveaError: the disk is full.
    """
    folder = cache_folder()
    for path in folder.glob(f"{key}.*{suffix}"):
        if path.name == _name(key, path.read_bytes(), suffix):
            return path
        warnings.warn(f"{path} is damaged: made again", stacklevel=2)
        path.unlink(missing_ok=True)
    content = make()
    path = folder / _name(key, content, suffix)
    with atomic_write(path) as file:  # readers and other writers see it whole or not at all
        file.write(content)
    return path


def _name(key: str, content: bytes, suffix: str) -> str:
    return f"{key}.{zlib.crc32(content):08x}{suffix}"
