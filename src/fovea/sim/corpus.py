"""Rendered scenes with segmentation: the corpus that the tiny encoder is trained on.

A folder with corpus.json and one shard a scene, NNNNN.npz: images (n, S, S, 3) uint8, labels (n, S, S) uint8 (index
into the categories, 255 elsewhere), camera (n,), scene (n,). A scene is a pure function of (seed, number), so an
interrupted run goes on where it stopped and the number of workers makes no difference.
"""

import argparse
import dataclasses
import errno
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fovea import __version__
from fovea.data.files import atomic_write, differing, read_json, write_json
from fovea.errors import FoveaError
from fovea.processes import spread
from fovea.progress import progress_bar
from fovea.sim.catalogue import CATALOGUE
from fovea.sim.env import build_sim_env, numpy_seed, objects_of_geoms, reset_sim_env
from fovea.sim.gl import single_threaded_children
from fovea.sim.render import Camera, RenderSettings
from fovea.sim.scenes import bddl, draw_scene
from fovea.sim.shuffle import SceneShuffler

CAMERAS = ("agentview", "wrist")
_SIM_CAMERAS = ("agentview", "robot0_eye_in_hand")
BACKGROUND = 255
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM}
"""Errors that pass: another try may succeed, so the scene is not at fault."""


@dataclass(frozen=True)
class CorpusConfig:
    """A corpus.

    Attributes:
        out: its folder.
        scenes: how many scenes.
        frames: moments of a scene; each gives one picture a camera.
        image_size: side of the pictures in pixels.
        workers: processes, one core each.
        seed: draws everything.
    """

    out: Path = Path("outputs/corpus")
    scenes: int = 300
    frames: int = 40
    image_size: int = 128
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("scenes", "frames", "workers"):
            if getattr(self, name) < 1:
                raise FoveaError(f"--{name}: expected at least 1, got {getattr(self, name)}")

    def recipe(self) -> dict[str, Any]:
        """The fields that decide the pictures."""
        return {
            key: value for key, value in dataclasses.asdict(self).items() if key not in ("out", "workers")
        }


def run(config: CorpusConfig) -> dict[str, Any]:
    """Render what is missing of the corpus.

    Returns:
        `out`, `scenes`, `pictures`, `rejected` (scenes that LIBERO could not build, with the reason).

    Raises:
        FoveaError: if the folder holds a corpus that was rendered otherwise.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    record_path = config.out / "corpus.json"
    record = _record(config)
    if record_path.exists():
        before = read_json(record_path, "record of a corpus")
        free = ("scenes", "rejected")
        different = [name for name in differing(before, record) if name not in free]
        if different:
            raise FoveaError(
                f"{config.out} holds a corpus rendered otherwise (different: {', '.join(different)}); choose another "
                "--out or delete it"
            )
    write_json(record_path, record)
    rejects = config.out / "rejects"
    rejects.mkdir(exist_ok=True)
    todo = [
        i for i in range(config.scenes) if not (_shard(config, i).exists() or (rejects / f"{i}.txt").exists())
    ]
    with progress_bar() as bar:
        task = bar.add_task("scenes", total=config.scenes, completed=config.scenes - len(todo), note="")
        for _ in _render_all(config, todo):
            bar.advance(task)
    rejected = {p.stem: p.read_text() for p in sorted(rejects.glob("*.txt"))}
    write_json(record_path, record | {"rejected": rejected})
    rendered = config.scenes - len(rejected)
    pictures = rendered * config.frames * len(CAMERAS)
    return {"out": str(config.out), "scenes": rendered, "pictures": pictures, "rejected": rejected}


def _record(config: CorpusConfig) -> dict[str, Any]:
    return {
        "categories": [{"name": name} for name in CATALOGUE],
        "cameras": list(CAMERAS),
        "seed": config.seed,
        "frames": config.frames,
        "scenes": config.scenes,
        "render": _settings(config).asdict(),
        "fovea": __version__,
        "rejected": {},
    }


def _settings(config: CorpusConfig) -> RenderSettings:
    return RenderSettings(image_size=config.image_size, reflections=False)


def _shard(config: CorpusConfig, number: int) -> Path:
    return config.out / f"{number:05d}.npz"


def _render_all(config: CorpusConfig, todo: list[int]) -> Any:
    if config.workers == 1 or len(todo) < 2:
        for number in todo:
            yield _render_scene((config, number))
        return
    jobs = [(config, number) for number in todo]
    with (
        single_threaded_children()
    ):  # a scene leaves compiled models behind: fresh processes keep memory flat
        yield from spread(_render_scene, jobs, config.workers, renewed=25)


def _render_scene(job: tuple[CorpusConfig, int]) -> int:
    from robosuite.utils.errors import RandomizationError

    config, number = job
    rng = np.random.default_rng([config.seed, number])
    spec = draw_scene(rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.bddl"
        path.write_text(bddl(spec))
        try:
            with numpy_seed(number):
                sim_env = build_sim_env(str(path), _settings(config))
                reset_sim_env(sim_env)
        except FoveaError:
            raise
        except (RuntimeError, ValueError, KeyError, OSError, RandomizationError) as error:
            if getattr(error, "errno", None) in OF_THE_MACHINE:
                raise
            # LIBERO cannot build every combination of its own types: recorded, counted, passed over
            reason = f"{dataclasses.asdict(spec)}: {type(error).__name__}: {error}"
            with atomic_write(config.out / "rejects" / f"{number}.txt") as file:
                file.write(reason.encode())
            return number
    arrays = _render_frames(sim_env, config, rng)
    arrays["scene"] = np.full(len(arrays["camera"]), number, np.int32)
    with atomic_write(_shard(config, number)) as file:
        np.savez(file, **arrays)
    sim_env.close()
    return number


def _render_frames(sim_env: Any, config: CorpusConfig, rng: np.random.Generator) -> dict[str, Any]:
    model, data = sim_env.sim.model._model, sim_env.sim.data._data
    names = list(sim_env.obj_body_id)
    categories = list(CATALOGUE)
    # instances are called <type>_1; the last entry stands for "no object"
    kinds = np.array(
        [categories.index(n[:-2]) if n[:-2] in CATALOGUE else BACKGROUND for n in names] + [BACKGROUND]
    )
    objects = objects_of_geoms(model, list(sim_env.obj_body_id.values()))
    shuffler = SceneShuffler(sim_env, rng)
    camera = Camera(model, _settings(config))
    images, labels, cameras = [], [], []
    try:
        for _ in range(config.frames):
            shuffler.shuffle()
            for index, name in enumerate(_SIM_CAMERAS):
                images.append(camera.image(data, name))
                labels.append(kinds[objects[camera.geoms(data, name)]].astype(np.uint8))
                cameras.append(index)
    finally:
        camera.close()
    return {"images": np.stack(images), "labels": np.stack(labels), "camera": np.array(cameras, np.uint8)}


def main() -> None:
    """`python -m fovea.sim.corpus --out DIR --scenes N`."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in dataclasses.fields(CorpusConfig):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    print(json.dumps(run(CorpusConfig(**vars(parser.parse_args()))), indent=2))


if __name__ == "__main__":
    main()
