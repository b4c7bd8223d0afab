import dataclasses

import numpy as np
import pytest
import torch

from fovea.data import keys
from fovea.data.augment import Augmentation
from fovea.errors import FoveaError

CAMERA, WRIST = keys.IMAGES
STILL = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "brightness": 0.0, "hue": 0.0}
STILL |= {"contrast": (1.0, 1.0), "saturation": (1.0, 1.0)}


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    tile = np.kron(rng.integers(0, 255, (3, 6, 8)), np.ones((1, 6, 6)))
    return torch.from_numpy(np.stack([tile, np.roll(tile, 3, axis=-1)]).astype(np.uint8))


def apply(pictures, augmentation=None, view=1, episode=0, camera=CAMERA):
    return (augmentation or Augmentation()).apply(pictures, view=view, episode=episode, camera=camera)


def test_a_view_is_a_function_of_seed_view_episode_and_camera(pictures):
    everywhere = Augmentation(cameras=keys.IMAGES)
    first = apply(pictures, everywhere)
    assert first.shape == pictures.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, apply(pictures, everywhere))
    assert torch.equal(first, apply(pictures))  # whichever other cameras are augmented
    others = [
        apply(pictures, everywhere, view=2),
        apply(pictures, everywhere, episode=1),
        apply(pictures, everywhere, camera=WRIST),
        apply(pictures, dataclasses.replace(everywhere, seed=1)),
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_all_frames_of_an_episode_get_the_same_draw(pictures):
    together = apply(pictures)
    for frame in range(2):
        assert torch.equal(together[frame : frame + 1], apply(pictures[frame : frame + 1]))


def test_view_zero_and_other_cameras_are_the_recorded_pictures(pictures):
    assert torch.equal(apply(pictures, view=0), pictures)
    assert torch.equal(apply(pictures, camera=WRIST), pictures)
    assert torch.equal(apply(pictures, Augmentation(**STILL)), pictures)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_cover_their_range(name):
    value = 0.3 if name == "brightness" else (0.7, 1.3)
    augmentation = Augmentation(**STILL | {name: value})
    grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    grey[:, :, 4:] = 140
    coloured = torch.tensor([150, 100, 50], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)
    seen = []
    for view in range(1, 200):
        if name == "brightness":
            seen.append(apply(grey, augmentation, view)[0, 0, 0, 0].item() / 100)
        elif name == "contrast":
            shown = apply(grey, augmentation, view)[0, 0].float()
            seen.append((shown[-1, 0] - shown[0, 0]).item() / 40)
        else:
            shown = apply(coloured, augmentation, view)[0, :, 0, 0].float()
            seen.append((shown[0] - shown[2]).item() / 100)
    assert 0.68 <= min(seen) < 0.75
    assert 1.25 < max(seen) <= 1.32


def test_hue_turns_colours_both_ways():
    red = torch.tensor([200, 0, 0], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4)
    shown = torch.stack(
        [apply(red, Augmentation(**STILL | {"hue": 0.1}), view)[0, :, 0, 0] for view in range(1, 99)]
    )
    assert (shown[:, 0] == 200).all()
    assert shown[:, 1].max() > 90
    assert shown[:, 2].max() > 90
    assert (shown[:, 1:].float().prod(1) == 0).all()


def test_crop_stays_inside_and_keeps_area_and_ratio():
    height, width = 60, 80
    rows, columns = np.mgrid[:height, :width]
    place = torch.from_numpy(np.stack([rows * 4, columns * 3, 0 * rows]).astype(np.uint8))[None]
    augmentation = Augmentation(**STILL | {"crop_scale": (0.8, 1.0), "crop_ratio": (0.9, 1.1)})
    areas, ratios = [], []
    for view in range(1, 200):
        shown = apply(place, augmentation, view)[0].float()
        tall = (shown[0].max() - shown[0].min()).item() / 4 + 1
        wide = (shown[1].max() - shown[1].min()).item() / 3 + 1
        areas.append(tall * wide / (height * width))
        ratios.append((wide / width) / (tall / height))
    assert 0.76 < min(areas) < 0.82
    assert max(areas) > 0.95
    assert 0.88 < min(ratios) < 0.94
    assert 1.06 < max(ratios) < 1.13


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_scale": (0.5, 1.2)},
        {"seed": -1},
        {"crop_ratio": (1.1, 0.9)},
        {"contrast": (-0.1, 1.0)},
        {"brightness": 1.5},
        {"hue": 0.7},
        {"cameras": ()},
        {"saturation": (0.8,)},
    ],
)
def test_senseless_settings(changes):
    with pytest.raises(FoveaError, match=next(iter(changes))):
        Augmentation(**changes)


def test_name_tells_all_settings_but_the_cameras_apart():
    names = {
        Augmentation().name(1),
        Augmentation().name(2),
        Augmentation(seed=1).name(1),
        Augmentation(hue=0).name(1),
    }
    assert len(names) == 4
    assert Augmentation(cameras=keys.IMAGES).name(1) in names
