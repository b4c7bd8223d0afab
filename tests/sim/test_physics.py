"""Every distinct scene of LIBERO's five suites and our own: light meshes change no number that moves things."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from fovea.sim import LiberoEnv, RenderSettings
from fovea.sim.physics import differences, distinct_scenes, scene_xml
from fovea.sim.registry import suite
from fovea.sim.suites import list_suites

SUITES = [name for name in list_suites() if suite(name).origin != "LIBERO-PRO"]


def without_pictures(xml: str) -> str:
    """Decoding textures takes most of the time of compiling a stock scene, and nothing collides with a picture."""
    scene = ElementTree.fromstring(xml)
    for texture in scene.iter("texture"):
        if texture.attrib.pop("file", None):
            texture.attrib.update(builtin="flat", width="6", height="6")
    return ElementTree.tostring(scene, encoding="unicode")


@pytest.mark.parametrize("task", distinct_scenes(SUITES), ids=lambda task: f"{task.suite}-{task.task_id}")
def test_light_scene_has_the_physics_of_the_stock_one(task):
    xml = without_pictures(scene_xml(task))
    light, stock = RenderSettings().compile(xml), RenderSettings(stock=True).compile(xml)
    assert light.nmeshface < 0.6 * stock.nmeshface
    assert differences(light, stock) == []


def test_a_difference_is_found(object_env: LiberoEnv):
    xml = without_pictures(scene_xml(object_env.task))
    stock = RenderSettings(stock=True).compile(xml)
    for change, name in (
        (lambda model: model.body_mass.__setitem__(3, 1.0), "body_mass"),
        (lambda model: model.geom_friction.__imul__(2), "geom_friction"),
        (lambda model: model.opt.gravity.__setitem__(2, -9.0), "opt.gravity"),
        (lambda model: model.mesh_vert.__iadd__(0.001), "mesh of geom"),
    ):
        light = RenderSettings().compile(xml)
        change(light)
        assert any(found.startswith(name) for found in differences(light, stock)), name
