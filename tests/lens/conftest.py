"""One real scene for all tests here: making its light meshes takes seconds."""

import pytest

from fovea.lens.moments import Moment, choose_starts, take_moments

SIDES = (128, 32)


@pytest.fixture(scope="session")
def milk(tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    """Two moments of "pick up the milk and place it in the basket" (libero_object, task 7), one second apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEA_CACHE", str(tmp_path_factory.mktemp("fovea-cache")))
        starts = choose_starts(["libero_object"], [7], 1, "official", 0)
        (moments,) = take_moments(starts, SIDES, count=2)
    return moments
