"""Small recorded data: three short episodes."""

import shutil

import pytest
from synthetic_episodes import LENGTHS, make_episode

from fovea.data.dataset import RecordedDataset, open_dataset
from fovea.data.record import assemble
from fovea.data.staging import write_episode


@pytest.fixture(scope="session")
def staging(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staging")
    for number in (2, 0, 1):
        write_episode(folder, 10 * number, **make_episode(number, LENGTHS[number]))
    return folder


@pytest.fixture(scope="session")
def dataset_root(staging, tmp_path_factory):
    root = tmp_path_factory.mktemp("assembled") / "set"
    return assemble(staging, root, {"suite": "libero_object", "seed": 3}, progress=False)


@pytest.fixture
def dataset(dataset_root) -> RecordedDataset:
    return open_dataset(dataset_root)


@pytest.fixture
def dataset_copy(dataset_root, tmp_path):
    return shutil.copytree(dataset_root, tmp_path / "copy")
