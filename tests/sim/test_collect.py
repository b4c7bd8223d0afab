"""Collection: real demonstrations, the same ones whatever interrupts them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fovea.data.dataset import open_dataset
from fovea.data.staging import StagedEpisodes, claimed, write_episode
from fovea.errors import FoveaError
from fovea.sim import collect, expert
from fovea.sim.collect import CollectConfig, Job
from fovea.sim.disturb import Disturbance
from fovea.sim.expert import NoGrasp
from fovea.sim.layout import EpisodeStart


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two drawn episodes of one task, image size 32, in one process."""
    out = tmp_path_factory.mktemp("collect") / "data"
    config = CollectConfig(
        out=out,
        tasks=[0],
        episodes=2,
        layout="drawn",
        holdout=["milk"],
        image_size=32,
        workers=1,
        val_share=0.5,
    )
    return config, collect.run(config)


def test_the_data_set_holds_what_was_asked_for(recorded):
    config, summary = recorded
    data = open_dataset(config.out)
    assert summary["episodes"] == 2
    assert summary["frames"] == len(data)
    assert {episode.split for episode in data.episodes} == {"train", "val"}
    assert all("pick up the" in episode.task and "milk" not in episode.task for episode in data.episodes)
    assert data.action.shape[1] == 7
    assert np.abs(data.action).max() <= 1
    assert data.frames(0, data.cameras[0]).shape[1:] == (32, 32, 3)
    record = json.loads((config.out / "meta" / "fovea.json").read_text())
    assert record["render"]["image_size"] == 32


def test_running_again_does_nothing_and_other_settings_are_refused(recorded):
    config, summary = recorded
    assert collect.run(config) == summary
    with pytest.raises(FoveaError, match="noise"):
        collect.run(CollectConfig(**{**vars(config), "noise": 0.1}))


def test_an_episode_depends_on_configuration_and_number_alone(recorded, tmp_path):
    config, _ = recorded
    again = CollectConfig(**{**vars(config), "out": tmp_path / "data"})
    recorder = collect._Recorder(again, tmp_path)
    recorder.record(Job(index=1, task_id=0, number=1))  # without number 0 before it
    episode = StagedEpisodes(tmp_path).read(1)
    data = open_dataset(config.out)
    rows = slice(data.episodes[1].start, data.episodes[1].start + len(episode))
    np.testing.assert_array_equal(data.state[rows], episode.state)
    np.testing.assert_array_equal(data.action[rows], episode.action)
    recorder.env.close()


def test_a_start_at_which_the_goal_holds_already_is_drawn_again(monkeypatch, tmp_path):
    env = SimpleNamespace(instruction="pick up the milk", solved_at_reset=False)
    tries = iter([True, True, False])
    env.reset = lambda start: setattr(env, "solved_at_reset", next(tries))
    recorder = collect._Recorder(CollectConfig(out=tmp_path / "data"), tmp_path)
    monkeypatch.setattr(recorder, "_scene", lambda task: env)
    monkeypatch.setattr(collect, "draw_start", lambda *_: EpisodeStart("libero_object", 0, 0))
    pictures = np.zeros((1, 2, 32, 32, 3), np.uint8)
    recorded = {"images": pictures, "state": np.zeros((1, 8)), "action": np.zeros((1, 7)), "header": {}}
    monkeypatch.setattr(collect, "record_episode", lambda *_: dict(recorded))
    assert recorder.record(Job(index=0, task_id=0, number=0)) == 2
    assert StagedEpisodes(tmp_path).read(0).header["rejected"] == 2
    tries = iter([True] * collect.TRIES)
    with pytest.raises(FoveaError, match="holds before anything is done; choose other --init_states"):
        recorder.record(Job(index=1, task_id=0, number=1))


def test_half_a_collection_goes_on_with_the_same_settings_only(tmp_path):
    config = CollectConfig(out=tmp_path / "data", tasks=[0])
    with claimed(config.out, config.identity()) as staging:
        assert staging.is_dir()
    more = CollectConfig(out=tmp_path / "data", tasks=[0], workers=1, episodes=50)
    with claimed(more.out, more.identity()) as again:
        assert again == staging
    with pytest.raises(FoveaError, match="other settings"):
        collect.run(CollectConfig(out=tmp_path / "data", tasks=[0], seed=1))


def test_official_states_that_come_round_again_stay_on_one_side():
    config = CollectConfig(episodes=70)  # of 30 states
    sides = {}
    for number in range(config.episodes):
        sides.setdefault(number % 30, set()).add(collect.held_for_validation(config, number))
    assert [state for state, found in sides.items() if found == {True}] == [12, 24]
    assert all(len(found) == 1 for found in sides.values())
    drawn = CollectConfig(episodes=70, layout="drawn")  # no layout comes twice
    assert [n for n in range(70) if collect.held_for_validation(drawn, n)] == [12, 24, 37, 49, 62]


def test_fewer_episodes_than_were_begun_are_refused(recorded, tmp_path):
    config, _ = recorded
    fewer = CollectConfig(**{**vars(config), "out": tmp_path / "data", "episodes": 1})
    pictures = np.zeros((1, 2, 32, 32, 3), np.uint8)
    header = {"start": {}, "task": "pick up the milk", "split": "train"}
    with claimed(fewer.out, fewer.identity()) as staging:
        write_episode(
            staging, 1, images=pictures, state=np.zeros((1, 8)), action=np.zeros((1, 7)), header=header
        )
    with pytest.raises(FoveaError, match="1 episodes more"):
        collect.run(fewer)


def test_a_second_process_and_a_folder_that_is_taken_are_refused_before_anything_is_recorded(tmp_path):
    config = CollectConfig(out=tmp_path / "data", tasks=[0])
    with (
        claimed(config.out, config.identity()),
        pytest.raises(FoveaError, match="another process is working"),
    ):
        collect.run(config)
    config.out.mkdir()
    (config.out / "somebody.txt").write_text("else's")
    with pytest.raises(FoveaError, match="exists already and is not empty"):
        collect.run(config)
    with pytest.raises(FoveaError, match=r"expected a new folder with a name, got '\.'"):
        collect.run(CollectConfig(out=Path(), tasks=[0]))


def test_an_object_that_cannot_be_grasped_any_more_is_a_failed_try(monkeypatch):
    def fallen(env):
        raise NoGrasp("milk_1 is wider than the hand")

    monkeypatch.setattr(expert, "Expert", fallen)
    assert collect.record_episode(None, np.random.default_rng(0), 0.2, 0.25) is None


def test_other_suites_keep_their_own_target_in_drawn_layouts(tmp_path):
    config = CollectConfig(out=tmp_path / "data", suite="libero_goal", layout="drawn", init_states=[5, 9])
    env = SimpleNamespace(init_state_count=50)
    rng = np.random.default_rng(0)
    starts = [collect.draw_start(config, env, Job(number, 3, number), rng) for number in range(8)]
    assert {(start.suite, start.task_id, start.layout, start.target) for start in starts} == {
        ("libero_goal", 3, "drawn", None)
    }
    assert {start.init_state for start in starts} <= set(range(5, 10))
    assert len({start.seed for start in starts}) == 8
    with pytest.raises(FoveaError, match="--holdout"):
        CollectConfig(suite="libero_goal", layout="drawn", holdout=["milk"])
    with pytest.raises(FoveaError, match="name a bowl by where it is; take drawn"):
        CollectConfig(suite="libero_spatial", layout="spread")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layout", "anywhere"),
        ("episodes", 0),
        ("workers", 0),
        ("noise", 2.0),
        ("recoveries", 1.5),
        ("init_states", [5, 2]),
        ("holdout", ["milk"]),
        ("holdout", ["kechup"]),
        ("tasks", [0, 3, 0]),
        ("image_size", 33),
        ("image_size", 4096),
    ],
)
def test_bad_settings_are_refused_by_name(field, value):
    with pytest.raises(FoveaError, match=field):
        CollectConfig(**{field: value})


def test_an_unknown_task_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(FoveaError, match="tasks 0 to 9"):
        collect.run(CollectConfig(out=tmp_path / "data", tasks=[10]))
    assert list(tmp_path.iterdir()) == []


def test_without_noise_and_recovery_the_executed_action_is_the_clean_one():
    calm = Disturbance(np.random.default_rng(0), noise=0.0, recovery=False)
    action = np.linspace(-1, 1, 7)
    np.testing.assert_array_equal(calm.apply(action, 0, holding=False, distance=0.3), action)


def test_noise_leaves_the_gripper_alone_and_stays_in_range():
    noisy = Disturbance(np.random.default_rng(0), noise=1.0, recovery=False)
    executed = np.stack([noisy.apply(np.full(7, 0.9), t, holding=False, distance=0.3) for t in range(50)])
    assert np.abs(executed).max() <= 1
    assert executed[:, :3].std() > 0.1
    np.testing.assert_array_equal(executed[:, 6], 0.9)


def test_recoveries_begin_only_where_they_make_sense():
    for seed in range(20):
        far = Disturbance(np.random.default_rng(seed), noise=0.0, recovery=True)
        grips = [far.apply(np.zeros(7), t, holding=False, distance=0.5)[6] for t in range(120)]
        assert not any(grips)  # neither an early grasp far from the object nor a drop without it
