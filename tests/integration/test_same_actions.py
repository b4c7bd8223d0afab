"""One policy, one initial state: `fovea eval --stock` and `lerobot-eval` play the same actions, step by step."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_processes

from fovea.cli.lerobot_eval import prepared
from fovea.evaluation.actor import Actor
from fovea.evaluation.closed_loop import evaluate
from fovea.evaluation.episodes import official
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig, libero_inputs
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors
from fovea.sim import RenderSettings

SIDE, TASK, STEPS = 64, 4, 8
SAME = 5e-3  # of actions in [-1, 1]; 0.001 was seen


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A policy with random weights that looks again after every second action."""
    torch.manual_seed(0)
    inputs = libero_inputs(size=SIDE)
    config = EFVLAConfig.tiny(device="cpu", input_features=inputs, n_action_steps=2, gripper_loss="l1")
    some = np.full(7, 0.4)
    stats = {
        "observation.state": {"mean": np.zeros(8), "std": np.full(8, 0.2)},
        "action": {"q01": -some, "q99": some},
    }
    folder = tmp_path / "run" / "pretrained_model"
    for part in (EFVLAPolicy(config), *make_ef_vla_pre_post_processors(config, stats)):
        part.save_pretrained(folder)
    return folder.parent


def lerobot_eval(words: list[str], config: str, file: str) -> None:
    """In a process of its own: LeRobot's command, writing down what its LIBERO environment is told to do."""
    os.environ["LIBERO_CONFIG_PATH"] = config
    from lerobot.envs.libero import LiberoEnv
    from lerobot.scripts.lerobot_eval import main

    actions, step = [], LiberoEnv.step

    def told(self, action):
        actions.append(np.array(action))
        return step(self, action)

    LiberoEnv.step = told
    sys.argv = ["lerobot-eval", *words]
    main()
    np.savez(file, actions=np.stack(actions))


def test_both_commands_play_the_same_actions(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))
    words, environment = prepared(
        [
            f"--policy.path={checkpoint}",
            f"--env.task_ids=[{TASK}]",
            f"--env.episode_length={STEPS}",
            "--env.hard_reset=false",
            "--eval.n_episodes=1",
            f"--output_dir={tmp_path / 'lerobot'}",
        ]
    )
    file = tmp_path / "actions.npz"
    config = environment["LIBERO_CONFIG_PATH"]
    done = warm_processes.run(lerobot_eval, words, config, str(file), log=tmp_path / "log")
    assert done.code == 0, done.output[-3000:]
    theirs = np.load(file)["actions"]

    ours: list[np.ndarray] = []
    actor = Actor.load(checkpoint)
    act = actor.act
    monkeypatch.setattr(actor, "act", lambda *given: ours.append(act(*given)) or ours[-1])
    render = RenderSettings(image_size=SIDE, stock=True)
    starts = official("libero_object", [TASK], [0])
    evaluate(actor, starts, tmp_path / "ours", workers=1, render=render, max_steps=STEPS, progress=False)

    assert theirs.shape == (STEPS, 7)
    np.testing.assert_allclose(np.concatenate(ours), np.clip(theirs, -1, 1), atol=SAME)
    assert np.median(np.ptp(theirs, axis=0)[:6]) > 10 * SAME, "actions that never change would prove nothing"
