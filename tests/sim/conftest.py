"""Shared environments: compiling a scene takes seconds, so it happens once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fovea.sim import LiberoEnv


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
