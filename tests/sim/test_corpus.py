"""The corpus: labels lie on what the picture shows, and a run goes on where it stopped."""

from __future__ import annotations

import errno
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from fovea.errors import FoveaError
from fovea.sim import corpus
from fovea.sim.catalogue import CATALOGUE
from fovea.sim.corpus import BACKGROUND, CorpusConfig
from fovea.sim.scenes import ARENAS, SceneSpec, bddl, draw_scene

SPECS = (
    SceneSpec("floor", ("ketchup", "milk", "butter", "orange_juice", "basket"), ()),
    SceneSpec("table", ("akita_black_bowl", "plate", "red_coffee_mug"), ("flat_stove",)),
)


def _run(out: Path, **changes) -> dict:
    """A run of two small scenes instead of drawn ones."""
    specs = iter(changes.pop("specs", SPECS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "draw_scene", lambda rng: next(specs))
        settings = {"scenes": 2, "frames": 6, "image_size": 96, "workers": 1, "seed": 3} | changes
        return corpus.run(CorpusConfig(out=out, **settings))


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def rendered(asset_cache, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    result = _run(out)
    assert result == {"out": str(out), "scenes": 2, "pictures": 24, "rejected": {}}
    return out


def test_shards_hold_what_the_record_promises(rendered):
    record = json.loads((rendered / "corpus.json").read_text())
    names = [category["name"] for category in record["categories"]]
    assert names == list(CATALOGUE)
    for number, spec in enumerate(SPECS):
        shard = _load(rendered / f"{number:05d}.npz")
        assert shard["images"].shape == (12, 96, 96, 3)
        assert shard["images"].dtype == shard["labels"].dtype == np.uint8
        assert shard["labels"].shape == (12, 96, 96)
        assert [record["cameras"][i] for i in shard["camera"]] == ["agentview", "wrist"] * 6
        assert set(shard["scene"]) == {number}
        seen = {names[i] for i in np.unique(shard["labels"]) if i != BACKGROUND}
        assert seen <= {*spec.objects, *spec.fixtures}
        assert len(seen) >= 3
        assert (shard["labels"] == BACKGROUND).mean() > 0.3, "table, walls and robot are background"


def test_labels_lie_on_the_picture(rendered):
    """Pictures change where labels change; they do not where mirrored labels change."""
    on, off = [], []
    for number in range(2):
        shard = _load(rendered / f"{number:05d}.npz")
        for picture, labels in zip(shard["images"], shard["labels"], strict=True):
            steps = np.abs(np.diff(picture.astype(float), axis=1)).mean(2)
            for values, edges in (
                (on, np.diff(labels.astype(int), axis=1) != 0),
                (off, np.diff(labels[:, ::-1].astype(int), axis=1) != 0),
            ):
                values.extend(steps[edges])
    assert np.mean(on) > 2 * np.mean(off)


def test_moments_of_a_scene_differ(rendered):
    shard = _load(rendered / "00000.npz")
    for camera in (0, 1):
        pictures = shard["images"][shard["camera"] == camera].astype(float)
        assert all(np.abs(a - b).mean() > 2 for a, b in itertools.pairwise(pictures))


def test_a_lost_shard_comes_back_the_same_and_the_others_stay(rendered):
    lost, kept = rendered / "00001.npz", rendered / "00000.npz"
    before, untouched = _load(lost), kept.stat().st_mtime_ns
    lost.unlink()
    _run(rendered, specs=SPECS[1:])
    after = _load(lost)
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert kept.stat().st_mtime_ns == untouched


def test_another_seed_does_not_mix_into_the_same_folder(rendered):
    with pytest.raises(FoveaError, match=r"different: seed.*--out"):
        _run(rendered, seed=4)


def test_a_scene_that_libero_cannot_build_is_counted_with_its_reason(tmp_path):
    broken = SceneSpec("floor", ("no_such_thing", "butter"), ())
    result = _run(tmp_path, specs=[broken], scenes=1)
    assert result["scenes"] == result["pictures"] == 0
    assert "no_such_thing" in result["rejected"]["0"]
    assert json.loads((tmp_path / "corpus.json").read_text())["rejected"] == result["rejected"]
    assert _run(tmp_path, specs=[], scenes=1) == result, "not tried again"


@pytest.mark.parametrize(
    "passing", [FoveaError("the disk of /data is full"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failure_of_the_machine_is_not_held_against_a_scene(passing, tmp_path, monkeypatch):
    def fail(*arguments):
        raise passing

    monkeypatch.setattr(corpus, "build_sim_env", fail)
    with pytest.raises(type(passing)):
        _run(tmp_path, scenes=1)
    assert list((tmp_path / "rejects").iterdir()) == []


@pytest.mark.parametrize("field", ["scenes", "frames", "workers"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(FoveaError, match=f"--{field}"):
        CorpusConfig(**{field: 0})


def test_drawn_scenes_cover_the_catalogue_every_arena_and_the_first_policy():
    drawn = [draw_scene(np.random.default_rng([0, i])) for i in range(300)]
    assert drawn == [draw_scene(np.random.default_rng([0, i])) for i in range(300)]
    assert {spec.arena for spec in drawn} == set(ARENAS)
    assert {name for spec in drawn for name in (*spec.objects, *spec.fixtures)} == set(CATALOGUE)
    plain = {name for name, entry in CATALOGUE.items() if not entry.colours and entry.kind == "graspable"}
    first = [s for s in drawn if s.arena == "floor" and set(s.objects) <= plain | {"basket"}]
    assert len(first) >= 0.3 * len(drawn), "scenes as in libero_object"
    assert all(bddl(spec).count("(") == bddl(spec).count(")") for spec in drawn)
