"""How LIBERO's pictures are drawn: light assets, the right buffer size, nothing that no light asks for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fovea.errors import FoveaError
from fovea.sim.assets import lighten
from fovea.sim.gl import prepare_gl

if TYPE_CHECKING:
    import mujoco

CAMERAS = {"image": "agentview", "image2": "robot0_eye_in_hand"}  # data-set name -> LIBERO's camera


@dataclass(frozen=True)
class RenderSettings:
    """What a picture depends on besides the scene: data sets keep it, evaluation repeats it.

    Args:
        image_size: side of the square picture, pixels.
        target_error: how far a visual mesh may be simplified, as a fraction of its extent (0: not at all).
        error_max: how far at most, metres; a large mesh, such as a table, would lose its edges otherwise.
        texture_max: longest side of a texture, pixels (0: as shipped).
        msaa: samples a pixel; 0 is faster but costs 5 dB of PSNR.
        shadows: draw shadow maps where a light casts shadows (in LIBERO's scenes none does).
        reflections: draw mirror images in reflective materials (a stove, a cabinet; costs a second pass).
        stock: LIBERO's own assets and settings; of the fields above only `image_size` counts then.
    """

    image_size: int = 128
    target_error: float = 0.005
    error_max: float = 0.002
    texture_max: int = 1024
    msaa: int = 4
    shadows: bool = True
    reflections: bool = True
    stock: bool = False

    def __post_init__(self) -> None:
        if not 16 <= self.image_size <= 2048:
            raise FoveaError(f"image_size is 16 to 2048 pixels, got {self.image_size}")
        if not 0 <= self.target_error < 1:
            raise FoveaError(f"target_error is a fraction from 0 to 1, got {self.target_error}")
        if not self.error_max > 0:
            raise FoveaError(f"error_max is more than 0 metres, got {self.error_max}")
        if self.texture_max < 0 or self.msaa < 0:
            raise FoveaError(f"texture_max and msaa are 0 or more, got {self.texture_max} and {self.msaa}")

    def asdict(self) -> dict[str, Any]:
        """Plain values for JSON; `RenderSettings(**d)` reads them back."""
        return dataclasses.asdict(self)

    def compile(self, xml: str) -> mujoco.MjModel:
        """Compile a scene for these settings. Physics arrays are those of the stock scene."""
        prepare_gl()
        import mujoco

        spec = mujoco.MjSpec.from_string(xml)
        if not self.stock:
            lighten(
                spec,
                target_error=self.target_error,
                error_max=self.error_max,
                texture_max=self.texture_max,
            )
        model = spec.compile()
        model.vis.global_.offwidth = model.vis.global_.offheight = self.image_size
        if not self.stock:
            model.vis.quality.offsamples = self.msaa
            if not (self.shadows and model.light_castshadow.any()):
                model.vis.quality.shadowsize = 0
        return model


class Camera:
    """Draws one model into its own GL context; several may live in one process."""

    def __init__(self, model: mujoco.MjModel, settings: RenderSettings):
        prepare_gl()
        import mujoco

        self.settings = settings

        class Renderer(mujoco.Renderer):
            def close(self) -> None:
                """Free this renderer's objects, not those of whichever context drew last (MuJoCo's own does)."""
                if self._gl_context:
                    self._gl_context.make_current()
                super().close()

        self._renderer = Renderer(model, settings.image_size, settings.image_size)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # collision geometry
        self._options.geomgroup[1] = 1  # visual geometry
        if not settings.stock:
            flag = mujoco.mjtRndFlag
            self._renderer.scene.flags[flag.mjRND_SHADOW] = settings.shadows
            self._renderer.scene.flags[flag.mjRND_REFLECTION] = settings.reflections

    def image(self, data: mujoco.MjData, camera: str) -> NDArray[np.uint8]:
        """The picture (H, W, 3) of a camera, as the data sets of the field show it (see `orient`)."""
        self._renderer.update_scene(data, camera, self._options)
        return orient(self._renderer.render())

    def geoms(self, data: mujoco.MjData, camera: str) -> NDArray[np.int32]:
        """The geom that each pixel of `image` shows, (H, W); -1 where none is."""
        import mujoco

        self._renderer.update_scene(data, camera, self._options)
        self._renderer.enable_segmentation_rendering()
        try:
            ids = self._renderer.render()
        finally:
            self._renderer.disable_segmentation_rendering()
        return orient(np.where(ids[..., 1] == mujoco.mjtObj.mjOBJ_GEOM, ids[..., 0], -1).astype(np.int32))

    def close(self) -> None:
        self._renderer.close()


def orient(picture: NDArray) -> NDArray:
    """Turn a camera's true picture into the field's convention.

    Non-obvious: robosuite hands pictures out bottom row first, and LIBERO's users (OpenVLA, LeRobot) turn
    them by 180 degrees. Two flips of the rows cancel; what is left is a mirror image, left for right. Public
    LIBERO data sets and checkpoints have it, so we keep it.
    """
    return np.ascontiguousarray(picture[:, ::-1])
