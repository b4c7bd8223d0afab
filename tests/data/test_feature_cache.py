import errno
import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from fovea.cli import main
from fovea.data import feature_build, files, keys
from fovea.data.dataset import open_dataset
from fovea.data.feature_build import build_features, cache_key
from fovea.data.feature_cache import FeatureCache
from fovea.data.windows import WindowSource
from fovea.encoders.base import Encoder
from fovea.errors import FoveaError
from fovea.tokens import Tokens


class PoolEncoder(Encoder):
    """Mean colours of a 2 x 2 grid: deterministic, width 3."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.name, self.image_size, self.grid, self.width = "pool", 32, (2, 2), 3
        self.max_words, self.temperature, self.tap = 4, 0.07, "out"
        self.gain = nn.Parameter(torch.tensor(gain))
        self.calls = 0

    def preprocess(self, images):
        return images.float() / 255

    def encode_image(self, images):
        self.calls += 1
        values = (
            nn.functional.adaptive_avg_pool2d(self.preprocess(images), 2).flatten(2).transpose(1, 2)
            * self.gain
        )
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))

    def encode_text(self, sentences):
        raise NotImplementedError

    def embed_text(self, sentences):
        raise NotImplementedError

    def describe(self):
        return {"cells": 2}


def build(dataset, root, encoder=None, **kw):
    return build_features(encoder or PoolEncoder(), dataset, root=root, progress=False, **kw)


def patches_file(cache):
    return cache.folder / "patches.f16"


def test_features_are_the_encoders(dataset, tmp_path):
    cache = build(dataset, tmp_path, batch_size=4)
    assert cache.shape == (30, 2, 4, 3)
    for episode in dataset.episodes:
        for camera, key in enumerate(keys.IMAGES):
            pictures = torch.from_numpy(dataset.frames(episode.index, key)).permute(0, 3, 1, 2)
            expected = PoolEncoder().encode_image(pictures).values.detach().half().numpy()
            np.testing.assert_array_equal(cache.episode(episode.index)[:, camera], expected)
    source = WindowSource(dataset, cache, context=5, horizon=4)
    batch = source.batch([source[12]])
    assert batch["observation.features.image2"].shape == (1, 5, 4, 3)
    assert batch["observation.features.image2"].dtype == torch.float16
    first = dataset.episodes[1].start + 3
    np.testing.assert_array_equal(batch["observation.features.image2"][0, 0], cache.episode(1)[3, 1])
    assert keys.IMAGES[0] not in batch
    assert first == 12


def test_second_build_computes_nothing(dataset, tmp_path):
    build(dataset, tmp_path)
    encoder = PoolEncoder()
    build(dataset, tmp_path, encoder)
    assert encoder.calls == 0


def test_key_changes_with_weights_data_and_variant(dataset, dataset_copy, tmp_path):
    keys_seen = {cache_key(PoolEncoder(), dataset), cache_key(PoolEncoder(2.0), dataset)}
    keys_seen.add(cache_key(PoolEncoder(), dataset, "flipped"))
    assert cache_key(PoolEncoder(), open_dataset(dataset_copy)) in keys_seen
    (dataset_copy / "meta/fovea.json").unlink()
    extra = dataset_copy / f"videos/{keys.IMAGES[0]}/chunk-000/file-000.mp4"
    extra.write_bytes(extra.read_bytes() + b"\0")
    keys_seen.add(cache_key(PoolEncoder(), open_dataset(dataset_copy)))
    assert len(keys_seen) == 4
    flipped = build(
        dataset, tmp_path, variant="flipped", transform=lambda images, episode, camera: images.flip(-1)
    )
    assert not np.array_equal(flipped.episode(0), build(dataset, tmp_path).episode(0))
    with pytest.raises(FoveaError, match="together"):
        build(dataset, tmp_path, variant="flipped")


def test_bit_flip_stops_reading_and_is_mended_by_building(dataset, tmp_path):
    cache = build(dataset, tmp_path)
    path = patches_file(cache)
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    opened = FeatureCache(cache.folder)
    assert opened.verify() == [1]
    source = WindowSource(dataset, opened, context=5, horizon=4)
    source.batch([source[0]])
    with pytest.raises(FoveaError, match="episode 1"):
        source.batch([source[12]])
    encoder = PoolEncoder()
    mended = build(dataset, tmp_path, encoder)
    assert mended.verify() == []
    assert encoder.calls == 2


def test_truncation_is_found_and_mended(dataset, tmp_path):
    cache = build(dataset, tmp_path)
    with open(patches_file(cache), "r+b") as file:
        file.truncate(1000)
    with pytest.raises(FoveaError, match="it was cut"):
        FeatureCache(cache.folder)
    assert build(dataset, tmp_path).verify() == []


def test_interrupted_build_goes_on(dataset, tmp_path):
    class Dies(PoolEncoder):
        def encode_image(self, images):
            if self.calls >= 2:
                raise KeyboardInterrupt
            return super().encode_image(images)

    with pytest.raises(KeyboardInterrupt):
        build(dataset, tmp_path, Dies(), workers=1)
    folder = tmp_path / "features" / cache_key(PoolEncoder(), dataset)
    with open(folder / "journal.jsonl", "a") as file:
        file.write('{"episode": 2, "cr')
    with pytest.raises(FoveaError, match="lacks 2 episodes"):
        FeatureCache(folder)
    encoder = PoolEncoder()
    cache = build(dataset, tmp_path, encoder)
    assert encoder.calls == 4
    assert cache.verify() == []


def test_pictures_go_to_where_the_encoder_is(dataset, tmp_path):
    class Elsewhere(PoolEncoder):
        places: ClassVar[list] = []

        @property
        def identity(self):
            return "elsewhere"

        def encode_image(self, images):
            self.places.append(images.device.type)
            values = torch.zeros(len(images), 4, 3)
            return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))

    build(dataset, tmp_path, Elsewhere().to("meta"))
    assert set(Elsewhere.places) == {"meta"}


def test_a_device_that_is_not_here_is_named(dataset, capsys):
    for name in ("cuda:7", "abacus"):
        assert main(["cache", "--dataset", str(dataset.root), "--device", name]) == 2
        assert f"expected a device of this machine, such as cpu, got {name}" in capsys.readouterr().err


def test_nan_features_are_refused(dataset, tmp_path):
    with pytest.raises(FoveaError, match="NaN"):
        build(dataset, tmp_path, PoolEncoder(float("nan")))


def test_full_disk_is_refused_before_writing(dataset, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(FoveaError, match="free some space"):
        build(dataset, tmp_path)
    assert not list(tmp_path.glob("features/*/patches.f16"))


def test_two_builders_share_the_work(dataset_root, dataset, tmp_path):
    encoders = [PoolEncoder(), PoolEncoder()]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(build, open_dataset(dataset_root), tmp_path, encoder) for encoder in encoders]
    assert [job.result().verify() for job in jobs] == [[], []]
    assert sorted(encoder.calls for encoder in encoders) == [0, 6]


def test_features_of_other_data_are_refused(dataset, tmp_path):
    from synthetic_episodes import make_episode

    from fovea.data.record import assemble
    from fovea.data.staging import write_episode

    write_episode(tmp_path / "staging", 0, **make_episode(0, 30))
    other = open_dataset(assemble(tmp_path / "staging", tmp_path / "other", {}, progress=False))
    cache = build(other, tmp_path)
    with pytest.raises(FoveaError, match="another data set"):
        WindowSource(dataset, cache)


def test_environment_decides_the_place(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "here"))
    cache = feature_build.build_features(PoolEncoder(), dataset, progress=False)
    assert cache.folder.parent == tmp_path / "here" / "features"


def test_nan_in_a_cache_that_others_wrote_names_its_episode(dataset, tmp_path):
    cache = build(dataset, tmp_path)
    patches = np.fromfile(patches_file(cache), np.float16)
    per_frame = 2 * 4 * 3
    patches[9 * per_frame + 5] = np.nan
    patches.tofile(patches_file(cache))
    lines = (cache.folder / "journal.jsonl").read_text().splitlines()
    entries = {entry["episode"]: entry for entry in map(json.loads, lines)}
    entries[1]["crc32"] = zlib.crc32(patches[9 * per_frame : 23 * per_frame])
    journal = "".join(json.dumps(entry) + "\n" for entry in entries.values())
    (cache.folder / "journal.jsonl").write_text(journal)
    opened = FeatureCache(cache.folder)
    source = WindowSource(dataset, opened, context=5, horizon=4)
    source.batch([source[0]])
    with pytest.raises(FoveaError, match=r"episode 1 in .* NaN or infinity in 1 pictures"):
        source.batch([source[12]])


def test_disk_that_fills_while_building_loses_nothing(dataset, tmp_path, monkeypatch):
    write, written = os.pwrite, []

    def full(file, content, offset):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(offset)
        return write(file, content, offset)

    monkeypatch.setattr(feature_build.os, "pwrite", full)
    with pytest.raises(FoveaError, match=r"features is full; free some space .* what was finished is kept"):
        build(dataset, tmp_path, workers=1)
    monkeypatch.undo()
    encoder = PoolEncoder()
    assert build(dataset, tmp_path, encoder).verify() == []
    assert encoder.calls == 2


@pytest.mark.parametrize("damage", ["features.json", "sealed.json"])
def test_damaged_records_are_written_anew(dataset, tmp_path, damage):
    folder = build(dataset, tmp_path).folder
    (folder / damage).write_text('{"format": 1, "sha')
    encoder = PoolEncoder()
    assert build(dataset, tmp_path, encoder).verify() == []
    assert encoder.calls == (0 if damage == "sealed.json" else 6)
