"""Policies that are not ours: a small ACT, untrained, as LeRobot saves it."""

import json

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors
from torch import nn

from fovea.cli import main
from fovea.data import keys
from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor, SelectActor
from fovea.evaluation.closed_loop import read_records

SIDE = 32


def save_act(folder, cameras=keys.IMAGES, state=8, actions=7):
    """A checkpoint folder of an ACT with random weights that plays two actions of a chunk of four."""
    torch.manual_seed(0)
    inputs = {key: PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)) for key in cameras}
    config = ACTConfig(
        input_features=inputs | {keys.STATE: PolicyFeature(FeatureType.STATE, (state,))},
        output_features={keys.ACTION: PolicyFeature(FeatureType.ACTION, (actions,))},
        pretrained_backbone_weights=None,
        use_vae=False,
        chunk_size=4,
        n_action_steps=2,
        dim_model=32,
        n_heads=2,
        dim_feedforward=32,
        n_encoder_layers=1,
        n_decoder_layers=1,
        device="cpu",
    )
    pictures = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
    stats = dict.fromkeys(cameras, pictures)
    for key, size in ((keys.STATE, state), (keys.ACTION, actions)):
        stats[key] = {"mean": torch.zeros(size), "std": torch.full((size,), 0.5)}
    policy = ACTPolicy(config)
    for part in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
        part.save_pretrained(folder / "pretrained_model")
    return folder


@pytest.fixture(scope="module")
def act(tmp_path_factory):
    return save_act(tmp_path_factory.mktemp("act"))


def frames(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {key: rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for key in keys.IMAGES}
        | {keys.STATE: rng.normal(size=8).astype(np.float32), keys.TASK: "pick up the milk"}
        for _ in range(count)
    ]


def test_episodes_side_by_side_act_as_lerobot_does_with_each_alone(act):
    actor = Actor.load(act)
    episodes = [frames(5, seed) for seed in range(2)]
    states = [actor.new_episode(seed) for seed in range(2)]
    # the second episode begins one step later, so their chunks end at different steps
    got = [[], []]
    for step in range(6):
        at = [(e, step - e) for e in range(2) if 0 <= step - e < 5]
        actions = actor.act([states[e] for e, _ in at], actor.batch([episodes[e][t] for e, t in at]))
        for (e, _), action in zip(at, actions, strict=True):
            got[e].append(action)

    policy = ACTPolicy.from_pretrained(act / "pretrained_model")
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(act / "pretrained_model"))
    for episode, actions in zip(episodes, got, strict=True):
        policy.reset()
        wanted = []
        for frame in episode:
            batch = {key: torch.from_numpy(frame[key]).permute(2, 0, 1)[None] / 255 for key in keys.IMAGES}
            batch |= {keys.STATE: torch.from_numpy(frame[keys.STATE])[None], keys.TASK: [frame[keys.TASK]]}
            wanted.append(after(policy.select_action(before(batch)))[0].numpy())
        np.testing.assert_allclose(actions, np.clip(wanted, -1, 1), atol=1e-6)


class Dice(nn.Module):
    """Draws its actions, and remembers how many it drew."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7))
        self.config = ACTConfig(device="cpu")
        self.drawn = 0

    def reset(self) -> None:
        self.drawn = 0

    def select_action(self, batch: dict) -> torch.Tensor:
        self.drawn += 1
        return torch.rand(1, 7) * self.weight / self.drawn


def test_what_a_policy_draws_depends_on_the_episode_and_not_on_its_company():
    actor = SelectActor(Dice(), lambda batch: batch, lambda actions: actions, "dice")
    both = [actor.new_episode(3), actor.new_episode(4)]
    together = [actor.act(both, actor.batch(frames(2))) for _ in range(3)]
    state = actor.new_episode(4)
    alone = [actor.act([state], actor.batch(frames(1))) for _ in range(3)]
    np.testing.assert_array_equal([pair[1] for pair in together], [one[0] for one in alone])
    assert actor.policy.drawn == 0
    assert both[0].policy.weight is actor.policy.weight


def test_two_suites_in_one_command_resume_and_end_in_tables(act, tmp_path, capsys):
    line = (
        f"eval --checkpoint {act} --out {tmp_path} --suite libero_object,libero_object_lan --tasks 4 --episodes 2 "
        "--max_steps 2 --workers 2 --videos 1"
    )
    assert main([*line.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["episodes"]) for row in result["suites"]] == [
        ("libero_object", 2),
        ("libero_object_lan", 2),
    ]
    assert [(row["suite"], row["task_id"], row["interval"][0]) for row in result["tasks"]] == [
        ("libero_object", 4, 0.0),
        ("libero_object_lan", 4, 0.0),
    ]
    assert result["success"]["episodes"] == 4
    assert result["wall_seconds"] > 0
    records = read_records(tmp_path / "episodes.jsonl")
    assert all(record["steps"] == record["max_steps"] == 2 for record in records)
    assert len({record["instruction"] for record in records}) == 2
    assert {record["start"]["init_state"] for record in records} == {30, 31}
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 2

    assert main(line.split()) == 0
    out = capsys.readouterr().out
    assert "| libero_object_lan | 0% (0/2) |" in out
    assert "| suite | success | 95 % interval |" in out
    assert read_records(tmp_path / "episodes.jsonl") == records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": ("observation.images.front",)}, r"observation\.images\.front.*LIBERO shows"),
        ({"state": 6}, r"states of shape \(6,\)"),
        ({"actions": 6}, r"actions of shape \(6,\)"),
    ],
)
def test_a_policy_for_another_robot_is_refused(tmp_path, changes, message):
    save_act(tmp_path, **changes)
    with pytest.raises(FoveaError, match=message):
        Actor.load(tmp_path)


def test_a_checkpoint_that_lerobot_cannot_load_is_named(act, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    saved = act / "pretrained_model"
    config = json.loads((saved / "config.json").read_text())
    (folder / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"type": "acct"}))
    with pytest.raises(FoveaError, match="acct"):
        Actor.load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"dim_model": 64}))
    with pytest.raises(FoveaError, match="size mismatch"):
        Actor.load(folder)
