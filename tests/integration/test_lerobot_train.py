"""`lerobot-train` with our policies, as a user runs it: two data sets, going on, LoRA; and who reads the result.

A policy type joins with one line in `POLICIES`.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_processes
from robot_datasets import CAMERA, JOINTS, SIDE, libero_like, own_robot
from safetensors.torch import load_file

from fovea.data import keys
from fovea.evaluation.actor import Actor

TINY = (
    "n_obs_steps=3 chunk_size=4 n_action_steps=2 dim_model=32 n_layers=1 n_heads=2 vision_width=32 text_width=16 "
    "pooling_blocks=1 pooling_heads=2"
)


@dataclass(frozen=True)
class Flow:
    """A policy type's flags.

    Attributes:
        small: fields that make it train in seconds.
        own_robot: fields for a robot that is not LIBERO's.
        advice: what a user reads who forgot them.
    """

    small: str
    own_robot: str
    advice: str

    def flags(self, *, own_robot: bool = False) -> list[str]:
        fields = f"{self.small} {self.own_robot if own_robot else ''}"
        return [f"--policy.{field}" for field in fields.split()]


VLM = (
    "vlm.layers=1 vlm.width=32 vlm.heads=2 vlm.kv_heads=2 vlm.hidden=32 vlm.queries=4 n_heads=2 chunk_size=4 "
    "n_action_steps=2"
)
POLICIES = {
    "ef_vla": Flow(TINY, "state_layout=as_is gripper_loss=l1", "state_layout=as_is"),
    "vla_adapter": Flow(VLM, "gripper=as_is", "gripper=as_is"),
    "focus_vla": Flow(f"{VLM} top_k=16", "gripper=as_is", "gripper=as_is"),
}
USUAL = [f"--{flag}" for flag in "batch_size=2 num_workers=0 log_freq=1 policy.device=cpu".split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lerobot")


@pytest.fixture(scope="module")
def libero_data(folder) -> list[str]:
    return ["--dataset.repo_id=local/libero", f"--dataset.root={libero_like(folder)}"]


@pytest.fixture(scope="module", params=POLICIES)
def kind(request) -> str:
    return request.param


def flags(kind: str, *, own_robot: bool = False) -> list[str]:
    new = [f"--policy.type={kind}", "--policy.push_to_hub=false"]
    return [*new, *USUAL, *POLICIES[kind].flags(own_robot=own_robot)]


def lerobot_train(out: Path, *words: str) -> warm_processes.Done:
    return warm_processes.command("lerobot-train", [f"--output_dir={out}", *words], out.with_suffix(".log"))


@pytest.fixture(scope="module")
def run(folder, libero_data, kind) -> Path:
    """A run of two steps; the first policy's in a new interpreter, which has to find our plugin by itself."""
    out = folder / kind
    words = [*libero_data, *flags(kind), "--steps=2", "--save_freq=1"]
    if kind != next(iter(POLICIES)):
        done = lerobot_train(out, *words)
        assert done.code == 0, done.output[-3000:]
        return out
    cold = subprocess.run(
        [Path(sys.executable).with_name("lerobot-train"), f"--output_dir={out}", *words],
        env=os.environ | warm_processes.SETTINGS,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert cold.returncode == 0, cold.stderr[-3000:]
    return out


def frames(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    task = {keys.TASK: "pick up the milk and place it in the basket"}
    return [
        {key: rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for key in keys.IMAGES}
        | {keys.STATE: rng.normal(size=8).astype(np.float32)}
        | task
        for _ in range(count)
    ]


def test_lerobots_checkpoint_acts_in_fovea_as_in_lerobot(run):
    """`Actor` is what `fovea eval` loads; histories of several environments are kept inside the policy."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    checkpoint = run / "checkpoints" / "last"
    seen = [frames(2) for _ in range(5)]
    actor = Actor.load(checkpoint)
    states = [actor.new_episode(0), actor.new_episode(0)]
    ours = [actor.act(states, actor.batch(step)) for step in seen]

    saved = checkpoint / "pretrained_model"
    config = PreTrainedConfig.from_pretrained(saved)
    policy = get_policy_class(config.type).from_pretrained(saved)
    before, after = make_pre_post_processors(config, pretrained_path=str(saved))
    for expected, step in zip(ours, seen, strict=True):
        batch = {
            key: torch.from_numpy(np.stack([frame[key] for frame in step])).permute(0, 3, 1, 2) / 255
            for key in keys.IMAGES
        }
        batch[keys.STATE] = torch.from_numpy(np.stack([frame[keys.STATE] for frame in step]))
        batch[keys.TASK] = [frame[keys.TASK] for frame in step]
        action = after(policy.select_action(before(batch)))
        np.testing.assert_allclose(action.clamp(-1, 1), expected, atol=1e-5)


def test_resume_goes_on_from_the_last_step(run, kind, folder):
    config = run / "checkpoints" / "last" / "pretrained_model" / "train_config.json"
    done = warm_processes.command(
        "lerobot-train",
        [f"--config_path={config}", "--resume=true", "--steps=3"],
        folder / f"{kind}-resume.log",
    )
    assert done.code == 0, done.output[-3000:]
    last = (run / "checkpoints" / "last").resolve()
    assert int(last.name) == 3
    assert json.loads((last / "training_state" / "training_step.json").read_text())["step"] == 3
    assert "step:3" in done.output
    assert "step:1 " not in done.output


@pytest.fixture(scope="module")
def adapted(run, kind, folder) -> Path:
    """LoRA on the run's policy, on data whose actions are half as large."""
    other = folder / f"{kind}-half"
    data = libero_like(other, scale=0.5)
    out = folder / f"{kind}-lora"
    start = run / "checkpoints" / "000001" / "pretrained_model"
    words = [f"--policy.path={start}", "--policy.push_to_hub=false", *USUAL]
    words += [
        "--dataset.repo_id=local/half",
        f"--dataset.root={data}",
        "--peft.method_type=LORA",
        "--peft.r=2",
    ]
    done = lerobot_train(out, *words, "--steps=1")
    assert done.code == 0, done.output[-3000:]
    return out


def test_lora_trains_little_and_its_checkpoint_acts(adapted, run):
    saved = (adapted / "checkpoints" / "last").resolve() / "pretrained_model"
    assert not (saved / "model.safetensors").exists()
    adapter = load_file(saved / "adapter_model.safetensors")
    assert all("lora" in name for name in adapter)
    (log,) = [
        line for line in adapted.with_suffix(".log").read_text().splitlines() if "num_learnable" in line
    ]
    learnable = int(log.split("num_learnable_params=")[1].split()[0])
    assert learnable == sum(value.numel() for value in adapter.values())
    actor = Actor.load(adapted / "checkpoints" / "last")
    action = actor.act([actor.new_episode(0)], actor.batch(frames(1)))
    assert action.shape == (1, 7)
    plain = Actor.load(run / "checkpoints" / "last")
    assert actor.identity != plain.identity


def test_fine_tuning_takes_the_new_scale_and_keeps_the_policys_own_rules(adapted, run):
    """LeRobot forces the new data set's plain statistics into the saved pipelines."""
    (first, rules), (second, same) = normaliser(run), normaliser(adapted)
    assert rules == same
    assert torch.allclose(second["action.q99"][:3], first["action.q99"][:3] / 2, rtol=0.05)
    for stats in (first, second):
        assert (stats["action.q01"][6], stats["action.q99"][6]) == (-1, 1)
        if rules["action"].startswith("symmetric"):
            assert torch.equal(stats["action.q01"], -stats["action.q99"])
        if rules["observation.state"] == "rotation_untouched":
            assert torch.equal(stats["observation.state.mean"][3:6], torch.zeros(3))
            assert torch.equal(stats["observation.state.std"][3:6], torch.ones(3))


def normaliser(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Statistics and rules of a run's last checkpoint."""
    saved = run / "checkpoints" / "last" / "pretrained_model"
    steps = json.loads((saved / "policy_preprocessor.json").read_text())["steps"]
    (step,) = [step for step in steps if "state_file" in step]
    return load_file(saved / step["state_file"]), step["config"]["rules"]


def test_a_robot_with_another_camera_and_other_joints(folder, kind):
    data = own_robot(folder / f"{kind}-robot")
    dataset = ["--dataset.repo_id=somebody/arm", f"--dataset.root={data}"]
    refused = lerobot_train(folder / f"{kind}-refused", *dataset, *flags(kind), "--steps=1")
    assert refused.code == 1
    assert POLICIES[kind].advice in refused.output
    out = folder / f"{kind}-arm"
    done = lerobot_train(out, *dataset, *flags(kind, own_robot=True), "--steps=1")
    assert done.code == 0, done.output[-3000:]

    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    saved = out / "checkpoints" / "last" / "pretrained_model"
    config = PreTrainedConfig.from_pretrained(saved)
    assert list(config.image_features) == [CAMERA]
    policy = get_policy_class(kind).from_pretrained(saved)
    before, after = make_pre_post_processors(config, pretrained_path=str(saved))
    task = ["put the sock in the box"] * 2
    batch = {CAMERA: torch.rand(2, 3, 48, 64), keys.STATE: torch.full((2, JOINTS), 45.0), keys.TASK: task}
    action = after(policy.select_action(before(batch)))
    assert action.shape == (2, JOINTS)
    assert action.min() > 0, "degrees of this robot lie between 31 and 61"
    assert action.max() < 100
