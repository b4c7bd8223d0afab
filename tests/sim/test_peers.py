"""Beside upstream's own environment: the same episode to the bit, and with `stock` the same pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from fovea.cli import main
from fovea.errors import FoveaError
from fovea.pipelines import bench_sim
from fovea.pipelines.bench_sim import BenchSimConfig
from fovea.sim.peers import Ours, OursAsStock, PeerProcess

TASK = ("libero_object", 4)
SIDE = 96


@pytest.fixture(scope="module")
def stock(asset_cache: str) -> Iterator[PeerProcess]:
    """LIBERO's OffScreenRenderEnv."""
    peer = PeerProcess("stock", *TASK, SIDE)
    peer.construct()
    yield peer
    peer.close()


def test_an_episode_is_upstreams_to_the_bit_and_stock_pictures_are_upstreams(
    stock: PeerProcess, asset_cache: str
):
    """Reset, settling, and twenty steps, with objects resting on the floor."""
    actions = np.tile([0.3, -0.2, -0.9, 0.1, 0.0, 0.2, 1.0], (20, 1))
    stock.reset(2)
    stock.play(actions, 0)
    expected = stock.call("state")
    for kind in (Ours, OursAsStock):
        ours = kind(*TASK, SIDE)
        ours.reset(2)
        for action in actions:
            ours.step(action, look=False)
        np.testing.assert_array_equal(ours.state(), expected)
        pose, pictures = ours.shown()
        for camera, picture in stock.call("pictures", pose).items():
            if kind is OursAsStock:
                np.testing.assert_array_equal(pictures[camera], picture)
            else:
                error = np.mean((pictures[camera].astype(float) - picture) ** 2)
                assert 30 < 10 * np.log10(255**2 / error) < 60
        ours.env.close()


def test_bench_compares_all_three(asset_cache: str, capsys, tmp_path):
    line = f"bench sim --rounds 1 --steps 1 --pictures 1 --image_size 48 --json --out {tmp_path / 'sim.md'}"
    assert main(line.split()) == 0
    result = json.loads(capsys.readouterr().out)
    for peer in ("ratio_to_stock", "ratio_to_lerobot"):
        assert set(result[peer]) == {"every_step", "every_8th_step", "reset", "construction"}
        assert result[peer]["reset"] > 1
    assert set(result["psnr_db"]) == {"agentview", "robot0_eye_in_hand"}
    assert all(value > 30 for value in result["psnr_db"].values())
    page = (tmp_path / "sim.md").read_text()
    assert "fovea bench sim --suite libero_object --task 0 --image_size 48" in page
    assert "PSNR agentview" in page


def test_figures_are_medians_and_ratios_those_of_each_round():
    times = {
        "stock": {"every_step": [100.0, 1000.0, 120.0], "reset": [5000.0], "construction": [4000.0]},
        "lerobot": {"every_step": [200.0, 2000.0, 240.0], "reset": [6000.0], "construction": [9000.0]},
        "fovea": {
            "every_step": [25.0, 250.0, 40.0],
            "every_8th_step": [10.0, 100.0, 12.0],
            "no_pictures": [5.0, 50.0, 6.0],
            "reset": [50.0],
            "construction": [1000.0],
        },
    }
    distances = {"agentview": [6.5025, 6.5025], "robot0_eye_in_hand": [65.025, 0.0]}
    result = bench_sim.summary(BenchSimConfig(), times, [1.7, 1.9, 2.5], distances)
    assert result["ratio_to_stock"] == {
        "every_step": 4,
        "every_8th_step": 10,
        "reset": 100,
        "construction": 4,
    }
    assert result["ratio_to_lerobot"]["every_step"] == 8
    assert result["psnr_db"] == {"agentview": 40, "robot0_eye_in_hand": pytest.approx(33.01)}
    assert result["psnr_db_worst"]["robot0_eye_in_hand"] == 30
    assert result["two_workers_to_one"] == 1.9
    assert result["milliseconds"]["stock"]["every_step"] == 120
    table = bench_sim.table(result)
    assert "| a step, both pictures | 120.0 ms | 240.0 ms | 40.0 ms | 4.0 x | 8.0 x |" in table


def test_what_cannot_be_compared_is_said(capsys):
    for wrong, hint in (
        ("--rounds 200", "at most 900"),
        ("--suite libero_objct", "libero_object"),
        ("--task 10", "0 to 9"),
    ):
        assert main(["bench", "sim", *wrong.split()]) == 2
        assert hint in capsys.readouterr().err


def test_a_simulator_that_refuses_or_dies_is_named(asset_cache: str):
    refusing = PeerProcess("fovea", "libero_object", 77, 48)
    with pytest.raises(FoveaError, match="fovea cannot simulate this task: libero_object has tasks 0 to 9"):
        refusing.construct()
    refusing.close()
    dying = PeerProcess("fovea", *TASK, 48)
    dying.close()
    with pytest.raises(FoveaError, match="simulates with fovea died"):
        dying.construct()
