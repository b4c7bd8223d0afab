"""One cache of light meshes for all tests here: making a scene's takes seconds."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def asset_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEA_CACHE", str(tmp_path_factory.mktemp("fovea-cache")))
        yield
