"""One toy suite, one toy backbone."""

import pytest
from toy_graft import Columns, make_backbone, make_suite

from fovea.data.dataset import open_dataset
from fovea.grafting.backbones import Backbone
from fovea.grafting.loading import load_backbone
from fovea.grafting.samples import Samples
from fovea.grafting.settings import SampleSettings


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folder of two suites."""
    root = tmp_path_factory.mktemp("data")
    make_suite(root / "left")
    make_suite(root / "right", first=6)
    return root


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """Folder of backbones that were trained here."""
    root = tmp_path_factory.mktemp("backbones")
    make_backbone(root / "toy", [data / "left"])
    return root


@pytest.fixture(scope="session")
def backbone(trained) -> Backbone:
    return load_backbone("toy", root=trained)


@pytest.fixture
def samples(data) -> Samples:
    return Samples(open_dataset(data / "left"), SampleSettings(train=20, held_out=6))


@pytest.fixture
def encoder() -> Columns:
    return Columns().freeze()


@pytest.fixture
def make_job(backbone, samples, encoder, tmp_path):
    """A job on the toy backbone whose tokens are stored under the test's own folder."""
    from fovea.grafting.cells import Cell, native_source
    from fovea.grafting.runs import BackbonePlace, Job
    from fovea.grafting.settings import Recipe, ScoreSettings
    from fovea.grafting.tokens import NativeVision, store_tokens

    def build(kind: str, *, steps: int = 3, save_every: int = 100, **cell) -> Job:
        sources = {
            "columns": encoder,
            native_source("toy", tower=True): NativeVision(backbone, tower=True),
            native_source("toy", tower=False): NativeVision(backbone, tower=False),
        }
        tokens = {
            name: store_tokens(
                source, samples.frames, {1, 2, 4}, tmp_path, root=tmp_path, workers=1, progress=False
            )
            for name, source in sources.items()
        }
        name = "columns" if kind == "graft" else None
        recipe = Recipe(steps=steps, batch_size=4, warmup_steps=2, save_every=save_every, lora_rank=2)
        scoring = ScoreSettings(euler_steps=2, flow_draws=1, batch_size=4)
        place, state = BackbonePlace("toy"), tmp_path / "state.safetensors"
        return Job(
            Cell("toy", "left", kind, name, **cell),
            "0" * 16,
            place,
            samples.dataset.root,
            tokens,
            samples.settings,
            recipe,
            scoring,
            state,
        )

    return build
