"""`fovea lerobot-eval`: LeRobot's own evaluation of an EF-VLA checkpoint, as a user runs it."""

import json
import os
import subprocess
import sys

import av
import numpy as np
import pytest

from fovea.cli.lerobot_eval import prepared
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig, libero_inputs
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors
from fovea.sim.suites import get_tasks

SIDE = 64


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """As `fovea train` writes it: a small policy with random weights over the encoder that ships."""
    config = EFVLAConfig.tiny(device="cpu", input_features=libero_inputs(size=SIDE))
    some = np.full(7, 0.2)
    stats = {
        "observation.state": {"mean": np.zeros(8), "std": np.ones(8)},
        "action": {"q01": -some, "q99": some, "mean": some, "std": some},
    }
    folder = tmp_path_factory.mktemp("run") / "last"
    for part in (EFVLAPolicy(config), *make_ef_vla_pre_post_processors(config, stats)):
        part.save_pretrained(folder / "pretrained_model")
    return folder


def test_lerobot_plays_an_episode_and_writes_its_result(checkpoint, tmp_path):
    flags = (
        f"--policy.path={checkpoint} --env.task_ids=[4] --env.episode_length=3 --env.hard_reset=false "
        f"--eval.n_episodes=1 --output_dir={tmp_path}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "fovea", "lerobot-eval", *flags.split()],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"--env.observation_height={SIDE}" in done.stdout
    info = json.loads((tmp_path / "eval_info.json").read_text())
    assert [(task["task_group"], task["task_id"]) for task in info["per_task"]] == [("libero_object", 4)]
    assert info["overall"]["n_episodes"] == 1
    (film,) = info["overall"]["video_paths"]
    with av.open(film) as video:
        picture = next(video.decode(video=0))
    assert (picture.width, picture.height) == (SIDE, SIDE)


def test_lerobot_reads_the_states_that_our_own_evaluation_uses(checkpoint, monkeypatch):
    from lerobot.envs.libero import _get_suite, get_task_init_states

    expected = [task.initial_states() for task in get_tasks("libero_goal")]
    _, environment = prepared([f"--policy.path={checkpoint}", "--env.task=libero_goal,libero_object_swap"])
    monkeypatch.setenv("LIBERO_CONFIG_PATH", environment["LIBERO_CONFIG_PATH"])
    suite = _get_suite("libero_goal")
    for number, states in enumerate(expected):
        np.testing.assert_array_equal(get_task_init_states(suite, number), states)
    swapped = _get_suite("libero_object_swap")
    assert (
        get_task_init_states(swapped, 0).shape[1]
        == get_tasks("libero_object_swap")[0].initial_states().shape[1]
    )


def test_what_the_user_says_wins(checkpoint, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    given = [
        "--policy.path",
        str(checkpoint),
        "--env.observation_height=48",
        "--eval.batch_size",
        "2",
        "--seed=7",
    ]
    words, environment = prepared(given)
    assert words[:6] == [words[0], str(checkpoint / "pretrained_model"), *given[2:]]
    assert [word.partition("=")[0] for word in words[6:]] == [
        "--env.type",
        "--env.task",
        "--eval.n_episodes",
        "--env.observation_width",
    ]
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["PATH"] == os.environ["PATH"]
