"""Fewer triangles, same look: quadric simplification that minds normals and texture coordinates.

V vertices, F triangles. Geometry is the cost of LIBERO's frames in software GL: one scene draws 300 k
triangles, of which a 128-pixel image needs a fifth.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NORMAL_WEIGHT = 0.3
TEXCOORD_WEIGHT = 0.5
CREASE_COSINE = 0.9


@dataclass(frozen=True)
class Mesh:
    """An indexed triangle mesh in which a vertex has one normal and at most one texture coordinate."""

    vertices: NDArray[np.float32]  # (V, 3)
    normals: NDArray[np.float32]  # (V, 3), unit length
    texcoords: NDArray[np.float32] | None  # (V, 2), MuJoCo's convention (v runs downwards)
    faces: NDArray[np.int32]  # (F, 3)


def weld(corners: NDArray, normals: NDArray, texcoords: NDArray | None) -> Mesh:
    """Join triangle corners that share position and texture coordinate, averaging their normals.

    Where a corner's normal is more than 26 degrees off the average of its group, the group is split by
    direction, so edges and facets stay sharp.

    Args:
        corners: (F, 3, 3) corner positions; normals: (F, 3, 3) corner normals; texcoords: (F, 3, 2) or None.
    """
    positions, directions = corners.reshape(-1, 3), normals.reshape(-1, 3).astype(np.float64)
    columns = [np.round(positions, 6)]
    if texcoords is not None:
        columns.append(np.round(texcoords.reshape(-1, 2), 5))
    group = np.unique(np.hstack(columns), axis=0, return_inverse=True)[1].ravel()
    creased = np.zeros(int(group.max()) + 1, bool)
    creased[group[(directions * _mean_direction(directions, group)[group]).sum(1) < CREASE_COSINE]] = True
    side = np.round(2 * directions).astype(np.int64) * creased[group, None]
    keys = np.hstack([group[:, None], side])
    _, first, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    index = index.ravel()
    return Mesh(
        positions[first].astype(np.float32),
        _mean_direction(directions, index).astype(np.float32),
        None if texcoords is None else texcoords.reshape(-1, 2)[first].astype(np.float32),
        index.reshape(-1, 3).astype(np.int32),
    )


def simplify(mesh: Mesh, *, target_error: float, min_faces: int) -> Mesh:
    """Collapse edges until the next would move the surface by more than `target_error` of its extent.

    Vertices are kept or dropped, never moved, so texture seams survive.
    """
    a, b, c = mesh.faces.T
    faces = mesh.faces[(a != b) & (b != c) & (a != c)]
    attributes, weights = mesh.normals, [NORMAL_WEIGHT] * 3
    if mesh.texcoords is not None:
        attributes, weights = np.hstack([attributes, mesh.texcoords]), weights + [TEXCOORD_WEIGHT] * 2
    kept = _meshopt_simplify(faces, mesh.vertices, attributes, weights, 3 * min_faces, target_error)
    used, index = np.unique(kept, return_inverse=True)
    return Mesh(
        mesh.vertices[used],
        mesh.normals[used],
        None if mesh.texcoords is None else mesh.texcoords[used],
        index.reshape(-1, 3).astype(np.int32),
    )


def _mean_direction(directions: NDArray, group: NDArray) -> NDArray:
    total = np.zeros((int(group.max()) + 1, 3))
    np.add.at(total, group, directions)
    return total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-12)


def _meshopt_simplify(
    faces: NDArray, vertices: NDArray, attributes: NDArray, weights: list[float], target: int, error: float
) -> NDArray:
    """meshopt_simplifyWithAttributes. The wheel's wrapper declares no argument types: pointers get cut."""
    from meshoptimizer._loader import lib

    uints, floats, size = ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_float), ctypes.c_size_t
    function = lib.meshopt_simplifyWithAttributes
    function.restype = size
    function.argtypes = [
        *(uints, uints, size),  # destination, indices, index count
        *(floats, size, size),  # vertices, count, stride
        *(floats, size, floats, size),  # attributes, stride, weights, attribute count
        *(ctypes.POINTER(ctypes.c_ubyte), size, ctypes.c_float, ctypes.c_uint, floats),
        # vertex lock, target index count, target error, options, resulting error
    ]
    index = np.ascontiguousarray(faces.ravel(), np.uint32)
    points = np.ascontiguousarray(vertices, np.float32)
    values = np.ascontiguousarray(attributes, np.float32)
    weight = np.asarray(weights, np.float32)
    destination = np.zeros_like(index)
    count = function(
        destination.ctypes.data_as(uints), index.ctypes.data_as(uints), len(index),
        points.ctypes.data_as(floats), len(points), points.strides[0],
        values.ctypes.data_as(floats), values.strides[0], weight.ctypes.data_as(floats), len(weight),
        None, target, error, 0, None,
    )  # fmt: skip
    return destination[:count].reshape(-1, 3)
