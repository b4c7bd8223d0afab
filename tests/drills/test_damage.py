"""Two hundred damaged files: always a clear message, never another number. `benchmarks/drills.py` tries more."""

import os
import random
import shutil

import pytest
from damage import KINDS, equal, hurt
from synthetic_episodes import LENGTHS, make_episode
from test_feature_cache import PoolEncoder

from fovea.data.dataset import open_dataset
from fovea.data.feature_build import build_features
from fovea.data.record import assemble
from fovea.data.staging import write_episode
from fovea.errors import FoveaError

CASES = int(os.environ.get("FOVEA_DRILL_DAMAGE", "200"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for number, steps in enumerate(LENGTHS):
        write_episode(folder / "staging", number, **make_episode(number, steps))
    return assemble(folder / "staging", folder / "set", {"suite": "libero_object"}, progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_or_harmless(kind, source, tmp_path):
    make, read = KINDS[kind]
    make(tmp_path / "whole", source)
    expected = read(tmp_path / "whole")
    share = CASES // len(KINDS) + (kind == next(iter(KINDS))) * (CASES % len(KINDS))
    named = 0
    for case in range(share):
        root = tmp_path / "hurt"
        shutil.copytree(tmp_path / "whole", root, symlinks=True)
        done = hurt(root, random.Random(f"{kind} {case}"))
        try:
            found = read(root)
        except FoveaError:
            named += 1
        else:
            assert equal(found, expected), f"{done}: read as if nothing had happened, but other numbers"
        if kind == "cache":
            mended = build_features(PoolEncoder(), open_dataset(source), root=root, workers=1, progress=False)
            assert equal([mended.episode(number) for number in range(len(LENGTHS))], expected), (
                f"{done}: not mended"
            )
        shutil.rmtree(root)
    assert named > share / 2


def test_a_journal_that_calls_an_episode_by_another_number(source, tmp_path):
    """Found by the drill: one flipped bit made 1 a 3."""
    make, read = KINDS["cache"]
    make(tmp_path, source)
    (journal,) = tmp_path.glob("features/*/journal.jsonl")
    journal.write_text(journal.read_text().replace('"episode": 1', '"episode": 3'))
    with pytest.raises(FoveaError, match="lacks 1 episodes"):
        read(tmp_path)
    assert build_features(PoolEncoder(), open_dataset(source), root=tmp_path, progress=False).verify() == []
