import numpy as np
import pytest
import torch
from test_feature_cache import PoolEncoder

from fovea.data import files, keys
from fovea.data.augment import Augmentation
from fovea.data.feature_cache import FeatureCache
from fovea.data.feature_views import build_views, plan_views
from fovea.data.joint import JointSource
from fovea.data.windows import Window, WindowSource
from fovea.errors import FoveaError

T, H = 5, 4
CAMERA, WRIST = keys.IMAGES


def build(dataset, root, count=2, encoder=None, augmentation=None, **kw):
    kw = {"root": root, "progress": False} | kw
    return build_views(encoder or PoolEncoder(), dataset, augmentation or Augmentation(), count, **kw)


def test_cached_views_are_the_features_of_augmented_pictures(dataset, tmp_path):
    source = WindowSource(dataset, build(dataset, tmp_path), context=T, horizon=H)
    assert source.views == 2
    windows = [Window(dataset.episodes[1], 3, view) for view in (2, 0, 1)]
    batch = source.batch(windows)
    for row, window in enumerate(windows):
        for camera in keys.IMAGES:
            pictures = torch.from_numpy(dataset.frames(1, camera)[3 : 3 + T]).permute(0, 3, 1, 2).contiguous()
            shown = Augmentation().apply(pictures, view=window.view, episode=1, camera=camera)
            expected = PoolEncoder().encode_image(shown).values.detach().half()
            assert torch.equal(batch[keys.features_key(camera)][row], expected)
            assert torch.equal(shown, pictures) == (camera == WRIST or window.view == 0)


def test_pixels_and_cached_features_show_the_same_view(dataset, tmp_path):
    cached = WindowSource(dataset, build(dataset, tmp_path), context=T, horizon=H)
    decoded = WindowSource(dataset, augmentation=Augmentation(), context=T, horizon=H)
    windows = [Window(dataset.episodes[2], 1, view) for view in (0, 1, 2)]
    features, pictures = cached.batch(windows), decoded.batch(windows)
    for camera in keys.IMAGES:
        encoded = PoolEncoder().encode_image(pictures[camera].flatten(0, 1)).values.detach().half()
        assert torch.equal(features[keys.features_key(camera)].flatten(0, 1), encoded)


def test_drawn_windows_show_every_view_and_validation_the_recorded_one(dataset, tmp_path):
    plain = WindowSource(dataset, build(dataset, tmp_path, 0), context=T, horizon=H)
    source = WindowSource(dataset, build(dataset, tmp_path, 2), context=T, horizon=H)
    drawn = source.sample(0, 0, 600)
    shares = np.bincount([window.view for window in drawn]) / 600
    assert len(shares) == 3
    assert abs(shares - 1 / 3).max() < 0.08
    assert drawn == source.sample(0, 0, 600)
    places = [(window.episode.index, window.start) for window in drawn]
    assert places == [(window.episode.index, window.start) for window in plain.sample(0, 0, 600)]
    assert {window.view for window in plain.sample(0, 0, 600)} == {0}
    assert {window.view for window in source.spread(50)} == {0}
    pixels = WindowSource(dataset, augmentation=Augmentation(), context=T, horizon=H)
    assert len({window.view for window in pixels.sample(0, 0, 600)}) > 590


def test_more_views_compute_only_the_new_ones(dataset, tmp_path):
    build(dataset, tmp_path, 1)
    encoder = PoolEncoder()
    views = build(dataset, tmp_path, 3, encoder)
    assert encoder.calls == 2 * 3  # views x episodes, the augmented camera only
    assert len(list(tmp_path.glob("features/*/sealed.json"))) == 4
    assert views.augmented[0].shape == (30, 1, 4, 3)
    build(dataset, tmp_path, 1, encoder, augmentation=Augmentation(seed=1))
    assert encoder.calls == 3 * 3


def test_size_is_planned_shown_and_refused_in_whole(dataset, tmp_path, monkeypatch, capfd):
    plan = plan_views(PoolEncoder(), dataset, Augmentation(), 3, root=tmp_path)
    frame = 4 * 3 * 2
    assert [builder.size for builder in plan] == [30 * 2 * frame, *[30 * frame] * 3]
    assert not list(tmp_path.iterdir())
    usage = files.shutil.disk_usage(tmp_path)
    reserve = min(1 << 30, usage.total // 50)
    enough_for_one = reserve + 30 * 2 * frame + 100
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=enough_for_one))
    with pytest.raises(FoveaError, match=r"needs 3.5 KB, but .* free some space"):
        build(dataset, tmp_path, 3, progress=True)
    assert "3 augmented views: 3.5 KB in all, 3.5 KB to write" in capfd.readouterr().err
    assert not list(tmp_path.glob("features/*/patches.f16"))
    monkeypatch.undo()
    build(dataset, tmp_path, 0, progress=True)
    assert "pool: 30 frames x 2 cameras x 4 patches x 3 in float16, 1.4 KB in" in capfd.readouterr().err


def test_damage_in_any_view_is_found(dataset, tmp_path):
    views = build(dataset, tmp_path)
    assert views.verify() == []
    path = views.augmented[1].folder / "patches.f16"
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    assert build(dataset, tmp_path, 1).verify() == []
    damaged = FeatureCache(path.parent)
    assert damaged.verify() == [2]
    assert not (path.parent / "sealed.json").exists()
    encoder = PoolEncoder()
    assert build(dataset, tmp_path, 2, encoder).verify() == []
    assert encoder.calls == 1


def test_cameras_that_the_data_set_lacks_are_named(dataset, tmp_path):
    augmentation = Augmentation(cameras=("observation.images.front",))
    with pytest.raises(FoveaError, match=r"got observation.images.front"):
        build(dataset, tmp_path, augmentation=augmentation)
    with pytest.raises(FoveaError, match=r"got observation.images.front"):
        WindowSource(dataset, augmentation=augmentation)
    with pytest.raises(FoveaError, match="0 to 10,000 augmented views"):
        build(dataset, tmp_path, -1)
    with pytest.raises(FoveaError, match="got both"):
        WindowSource(dataset, build(dataset, tmp_path, 0), augmentation=Augmentation())


def test_a_run_knows_which_views_it_was_trained_on(dataset, tmp_path):
    described = [
        WindowSource(dataset, build(dataset, tmp_path, count), context=T, horizon=H).describe()["variant"]
        for count in (0, 1, 2)
    ]
    assert described[0] == "none"
    assert described[1] != described[2]
    assert described[2]["augmented"] == [CAMERA]


def test_joint_data_sets_draw_each_from_their_own_views(dataset, tmp_path):
    sources = [
        WindowSource(dataset, build(dataset, tmp_path, count), context=T, horizon=H) for count in (0, 2)
    ]
    joint = JointSource(sources)
    drawn = joint.sample(3, 1, 300)
    assert {window.view for window in drawn if window.source == 0} == {0}
    assert {window.view for window in drawn if window.source == 1} == {0, 1, 2}
    batch = joint.batch(drawn[:20])
    for row, window in enumerate(drawn[:20]):
        alone = sources[window.source].batch([window])
        assert torch.equal(batch[keys.features_key(CAMERA)][row], alone[keys.features_key(CAMERA)][0])
