"""Grasps of what is too wide to be grasped across: walls of bowls and mugs, handles, knobs of lids."""

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from fovea.sim.expert.grasp import (
    FINGER_LENGTH,
    HAND_CORNERS,
    MAX_WIDTH,
    YAWS,
    Grasp,
    clearance,
    hand_clearance,
    heading,
    leaning,
    nearer_side,
    nearest_down,
    plan_grasps,
    turn_between,
)
from fovea.sim.expert.reach import can_reach
from fovea.sim.expert.scene import Array, Scene

RIM_BAND = 0.012  # points this far below the top belong to the rim
RIM_DEPTH = 0.025  # grip site below the rim
ANGLES = np.linspace(-np.pi, np.pi, 36, endpoint=False)
LEANS = (0.0, 0.45, -0.45, 0.8, -0.8)
UP = np.array([0.0, 0.0, 1.0])
ASKEW = (0.2, 0.9)  # how upright a vessel is that leans on something: cosine of the angle
SLANTS = (-0.9, -0.45, 0.0, 0.45, 0.9)
HOLLOW = 0.025  # radius of an opening wide enough for a finger


def plan_any(scene: Scene, name: str, goal: Array | None = None) -> list[Grasp]:
    """Grasps of any object: across it if it is narrow, else by its wall if it is hollow, else by what sticks up.

    Args:
        scene: privileged view.
        name: object instance.
        goal: (3,) where the object's origin will go; grasps with which the hand has room there, and which the arm
            can reach, come first.
    """
    points, up = scene.points(name), scene.object_rotation(name)[:, 2]
    if ASKEW[0] < up[2] < ASKEW[1]:
        points = points @ scene.object_rotation(name)
    if opening(points)[1] > HOLLOW:
        return plan_rim_grasps(scene, name, goal)
    return plan_grasps(scene, name) or plan_knob_grasps(scene, name)


def opening(points: Array) -> tuple[Array, float]:
    """(2,) centre and radius of the largest empty circle within the rim of a vessel; radius 0 for a closed top."""
    rim = points[points[:, 2] > points[:, 2].max() - RIM_BAND][:, :2]
    middle, reach = (rim.max(0) + rim.min(0)) / 2, np.ptp(rim, axis=0) / 4
    grid = middle + np.stack(np.meshgrid(*[np.linspace(-r, r, 13) for r in reach]), -1).reshape(-1, 2)
    radii = np.linalg.norm(grid[:, None] - rim[None], axis=-1).min(1)
    best = int(np.argmax(radii))
    return grid[best], float(radii[best])


def _grasp(
    scene: Scene, name: str, position: Array, yaw: float, width: float, room: float, lean: float = 0.0
) -> Grasp:
    """A grasp at a pose in the world, kept in the frame of the object."""
    rotation = scene.object_rotation(name)
    axis = int(np.argmin(np.abs(rotation[2])))
    own = heading(rotation, axis)
    c, s = np.cos(-own), np.sin(-own)
    back = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    offset = back @ (position - scene.object_position(name))
    return Grasp(offset, float(yaw - own), axis, width, room, lean)


def plan_rim_grasps(scene: Scene, name: str, goal: Array | None = None) -> list[Grasp]:
    """Grasps of a vessel's wall, one finger inside, best first; the hand leans away from what stands in its way."""
    points, obstacles = scene.points(name), scene.obstacles(name)
    up = scene.object_rotation(name)[:, 2]
    if ASKEW[0] < up[2] < ASKEW[1] and (askew := plan_askew_grasps(scene, name)):
        return askew
    height = points @ (
        up if up[2] >= ASKEW[1] else UP
    )  # a vessel that stands a little askew has a slanting rim
    rim = points[height > height.max() - RIM_BAND]
    centre, _ = opening(np.c_[points[:, :2], height])
    scored: list[tuple[float, Grasp]] = []
    for lean in LEANS:
        for yaw in ANGLES:
            u = np.array([np.cos(yaw), np.sin(yaw)])
            out = rim[:, :2] - centre
            along, across = out @ u, np.abs(out @ np.array([-u[1], u[0]]))
            here = (along > 0) & (across < 0.012)
            wall = along[here]
            if not len(wall) or np.ptp(wall) > 0.025:  # a gap, or a handle
                continue
            top = float(rim[here, 2].max())
            position = np.array([*(centre + u * (wall.max() + wall.min()) / 2), top - RIM_DEPTH])
            if lean == 0:
                rotation = nearest_down(scene.rotation, yaw)
                room = clearance(position[:2], yaw, position[2], obstacles)
            else:
                rotation = leaning(scene.rotation, yaw, lean)
                room = hand_clearance(position, rotation, obstacles)
            turn = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
            far = float(np.linalg.norm(position[:2] - scene.position[:2]))
            stretch, tight = scene.stretch(position), 0.0
            if goal is not None:
                there = goal + position - scene.object_position(name)
                stretch += scene.stretch(there)
                tight = max(0.0, 0.015 - hand_clearance(there, rotation, obstacles))
            cost = (
                0.12 * turn
                + 40 * max(0.0, 0.015 - room)
                + 0.3 * far
                + 0.1 * abs(lean)
                + 6 * stretch
                + 20 * tight
            )
            scored.append((cost, _grasp(scene, name, position, float(yaw), float(np.ptp(wall)), room, lean)))
        if any(grasp.clearance > 0.01 for _, grasp in scored):
            break
    return [grasp for _, grasp in sorted(scored, key=lambda pair: pair[0])]


def plan_askew_grasps(scene: Scene, name: str) -> list[Grasp]:
    """Rim grasps along the axis of a vessel that leans on something, best first; only those within reach."""
    own, origin = scene.object_rotation(name), scene.object_position(name)
    local = (scene.points(name) - origin) @ own
    rim = local[local[:, 2] > local[:, 2].max() - RIM_BAND]
    centre, _ = opening(local)
    obstacles, table = scene.obstacles(name), scene.table_height()
    tips = [np.array([x, 0.0, FINGER_LENGTH]) for x in (0.05, -0.05)]
    scored: list[tuple[float, Grasp]] = []
    for yaw in ANGLES:
        u = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        along, across = (rim[:, :2] - centre) @ u[:2], np.abs((rim[:, :2] - centre) @ np.array([-u[1], u[0]]))
        wall = along[(along > 0) & (across < 0.012)]
        if not len(wall) or np.ptp(wall) > 0.025:
            continue
        offset = np.array([*(centre + u[:2] * (wall.max() + wall.min()) / 2), rim[:, 2].max() - RIM_DEPTH])
        position, tangent = origin + own @ offset, np.cross(UP, u)
        for angle in SLANTS:  # any approach within the wall's plane pinches the wall
            approach = np.sin(angle) * tangent - np.cos(angle) * UP
            frame = np.stack([u, np.cross(approach, u), approach], 1)
            rotation = nearer_side(scene.rotation, own @ frame)
            lowest = (
                min(float((position + rotation @ corner)[2]) for corner in [*HAND_CORNERS, *tips]) - table
            )
            room = hand_clearance(position, rotation, obstacles)
            turn = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
            lean = float(np.arccos(np.clip(-rotation[2, 2], -1, 1)))
            cost = 0.12 * turn + 0.3 * lean + 40 * max(0.0, 0.012 - room) + 40 * max(0.0, 0.005 - lowest)
            grasp = Grasp(offset, 0.0, 0, float(np.ptp(wall)), room, frame=frame)
            scored.append((cost, grasp))
    best = [grasp for _, grasp in sorted(scored, key=lambda pair: pair[0])[:20]]
    return [
        grasp for grasp in best if can_reach(scene, grasp.position(scene, name), grasp.rotation(scene, name))
    ]


def plan_knob_grasps(scene: Scene, name: str) -> list[Grasp]:
    """Grasps from above of the narrow parts at an object's top, such as the knob of a lid, best first."""
    points, obstacles = scene.points(name), scene.obstacles(name)
    top, origin = float(points[:, 2].max()), scene.object_position(name)
    scored: list[tuple[float, Grasp]] = []
    for height in [top - 0.006 * k for k in range(1, 8)]:
        band = points[np.abs(points[:, 2] - height) < FINGER_LENGTH][:, :2]
        for part in _parts(band):
            middle = (part.max(0) + part.min(0)) / 2
            for yaw in map(float, YAWS):
                width = float(np.ptp((part - middle) @ np.array([np.cos(yaw), np.sin(yaw)])))
                if width > MAX_WIDTH:
                    continue
                own = clearance(middle, yaw, height + 0.004, points)
                room = min(own, clearance(middle, yaw, height, obstacles))
                rotation = nearest_down(scene.rotation, yaw)
                turn = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
                off = float(np.linalg.norm(middle - origin[:2]))
                cost = 0.5 * turn + 8 * off + 200 * max(0.0, 0.003 - own) + 40 * max(0.0, 0.012 - room)
                position = np.array([*middle, height])
                scored.append((cost, _grasp(scene, name, position, yaw, width, room)))
    return [grasp for _, grasp in sorted(scored, key=lambda pair: pair[0])]


def _parts(points: Array) -> list[Array]:
    """Groups of points (n, 2) that are less than a finger apart: the knob of a lid and the top of a handle."""
    if len(points) < 2:
        return []
    near = KDTree(points).sparse_distance_matrix(KDTree(points), 0.02)
    count, label = connected_components(near, directed=False)
    return [points[label == i] for i in range(count)]


def plan_handle_grasps(scene: Scene, name: str) -> list[Grasp]:
    """Grasps of a mug's handle with the hand outside the mug, lying down: for places with a roof, best first."""
    points = scene.points(name)
    centre, _ = opening(points)
    out = points[:, :2] - centre
    distance = np.linalg.norm(out, axis=1)
    wall = float(np.median(distance[points[:, 2] > points[:, 2].max() - RIM_BAND]))
    handle = points[distance > wall + 0.008]
    if len(handle) < 4:
        return []
    middle = (handle.max(0) + handle.min(0)) / 2
    outward = float(np.arctan2(*(middle[:2] - centre)[::-1]))
    floor = float(points[:, 2].min())
    scored: list[tuple[float, Grasp]] = []
    obstacles = scene.obstacles(name)
    for lean in (1.2, 1.0, 0.8):
        for aside in (0.0, 0.4, -0.4, 0.7, -0.7):
            yaw = outward + np.pi / 2 + aside  # fingers point to its left, which is inward
            rotation = leaning(scene.rotation, yaw, lean)
            lowest = min(float((middle + rotation @ corner)[2]) for corner in HAND_CORNERS) - floor
            before = middle - 0.08 * rotation[:, 2]
            room = min(hand_clearance(place, rotation, obstacles) for place in (middle, before))
            cost = 40 * (max(0.0, 0.015 - room) + max(0.0, 0.01 - lowest)) + 0.2 * abs(aside) - 0.1 * lean
            scored.append((cost, _grasp(scene, name, middle, yaw, 0.02, room, lean)))
    return [grasp for _, grasp in sorted(scored, key=lambda pair: pair[0])]
