"""Shared environments: compiling a scene and making its light assets takes seconds, so it happens once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fovea.sim import LiberoEnv


@pytest.fixture(scope="session", autouse=True)
def asset_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An asset cache of the tests' own, so that a run makes everything it uses."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("fovea-cache"))
        patch.setenv("FOVEA_CACHE", folder)
        yield folder


@pytest.fixture(scope="session")
def object_env(asset_cache: str) -> Iterator[LiberoEnv]:
    """libero_object task 4: pick up the ketchup and place it in the basket."""
    env = LiberoEnv("libero_object", 4)
    yield env
    env.close()


@pytest.fixture(scope="session")
def spatial_env(asset_cache: str) -> Iterator[LiberoEnv]:
    env = LiberoEnv("libero_spatial", 0)
    yield env
    env.close()
