"""One real scene for all tests here: making its light meshes takes seconds."""

import pytest

from fovea.lens.moments import Moment, choose_starts, take_moments

SIDES = (128, 32)


@pytest.fixture(scope="session")
def milk() -> list[Moment]:
    """Two moments of "pick up the milk and place it in the basket" (libero_object, task 7), one second apart."""
    (moments,) = take_moments(choose_starts(["libero_object"], [7], 1, "official", 0), SIDES, count=2)
    return moments
