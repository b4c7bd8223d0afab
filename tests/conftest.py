"""Settings of every test, however pytest is started: offline, on a CPU, one thread; the user's own stay out of it.

That this file is here also makes the modules beside it importable from every room of the tests.
"""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",  # the last bits of sums depend on it, and tests compare processes bit by bit
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "1",
}
os.environ.setdefault("MUJOCO_GL", "osmesa")


@pytest.fixture(scope="session", autouse=True)
def asset_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Caches of the tests' own, so that a run makes all it uses; only once: a scene's light meshes take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("fovea-cache"))
        patch.setenv("FOVEA_CACHE", folder)
        yield folder


@pytest.fixture(autouse=True)
def same_numbers_alone_and_in_the_suite() -> Iterator[None]:
    """A test draws the same, whatever ran before it, and leaves torch its number of threads."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    assert torch.get_num_threads() == threads
