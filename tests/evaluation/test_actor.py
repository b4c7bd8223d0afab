import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature

from fovea.encoders.tiny import TinyConfig, TinyEncoder
from fovea.errors import FoveaError
from fovea.evaluation import film
from fovea.evaluation.actor import Actor
from fovea.evaluation.film import write_film
from fovea.lens.word_maps import PolicyMaps
from fovea.policies.ef_vla import features_ef_vla
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors

TASK = "pick up the milk"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint folder of a toy policy with random weights, whose actions in the data were small."""
    torch.manual_seed(0)
    encoder = TinyEncoder(TinyConfig.tiny(image_size=32), TASK.split())
    encoder.freeze()
    monkeypatch.setattr(features_ef_vla, "create_encoder", lambda name, tap=None: encoder)
    policy = EFVLAPolicy(EFVLAConfig.tiny(device="cpu"), encoder=encoder)
    small = np.full(7, 0.2)
    stats = {
        "observation.state": {"mean": np.zeros(8), "std": np.ones(8)},
        "action": {"q01": -small, "q99": small, "mean": small, "std": small},
    }
    folder = tmp_path / "step" / "pretrained_model"
    for part in (policy, *make_ef_vla_pre_post_processors(policy.config, stats)):
        part.save_pretrained(folder)
    return folder.parent


def observations(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "observation.images.image": rng.integers(0, 255, (32, 32, 3), dtype=np.uint8),
            "observation.images.image2": rng.integers(0, 255, (32, 32, 3), dtype=np.uint8),
            "observation.state": rng.normal(size=8).astype(np.float32),
            "task": TASK,
        }
        for _ in range(count)
    ]


def test_a_checkpoint_acts_for_several_episodes_as_for_each_alone(checkpoint):
    actor = Actor.load(checkpoint)
    frames = observations(3)
    together = actor.act([actor.new_episode(0) for _ in frames], actor.batch(frames))
    alone = [actor.act([actor.new_episode(0)], actor.batch([frame]))[0] for frame in frames]
    assert together.shape == (3, 7)
    assert np.abs(together).max() <= 1
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert set(np.abs(together[:, 6])) == {1.0}  # the gripper opens or closes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_action_steps": 99}, "n_action_steps <= chunk_size"),
        ({"n_action_steps": 0}, "n_action_steps > 0"),
        ({"n_action_steps": -2}, "n_action_steps > 0"),
        ({"temporal_ensemble": "all"}, "temporal_ensemble among"),
        ({"obs_stride": 3, "n_action_steps": 4}, "obs_stride to divide"),
    ],
)
def test_acting_otherwise_than_it_can_is_refused(checkpoint, changes, message):
    with pytest.raises(FoveaError, match=f"ef_vla cannot act with .*{message}"):
        Actor.load(checkpoint, **changes)


def test_what_changes_how_it_acts_changes_its_identity(checkpoint):
    names = [Actor.load(checkpoint, **c).identity for c in ({}, {}, {"n_action_steps": 1})]
    assert names[0] == names[1] != names[2]


def test_every_word_looks_at_every_camera_and_becomes_a_film(checkpoint, tmp_path):
    actor = Actor.load(checkpoint)
    frames = observations(2)
    together, alone = PolicyMaps(actor, "").look_at(frames), PolicyMaps(actor, "").look(frames[1])
    assert together[1].keys() == {"agentview", "wrist"}
    for camera, maps in together[1].items():
        assert maps.shape[0] == 4
        np.testing.assert_allclose(maps.sum(axis=(-1, -2)), 1, atol=1e-5)
        np.testing.assert_allclose(maps, alone[camera], atol=1e-5)
    assert write_film(tmp_path / "film.mp4", frames, actor).stat().st_size > 1000


def test_a_film_lights_each_word_where_that_word_looks(checkpoint, tmp_path, monkeypatch):
    """An encoder may cut words into pieces, and a policy may know one camera only."""
    actor = Actor.load(checkpoint)
    drawn = {}

    def keep(pictures, maps, words, **rest):
        drawn.update(maps=maps, words=words, **rest)
        return iter(np.zeros((2, 16, 16, 3), np.uint8))

    here, elsewhere = np.zeros((2, 4, 4), np.float32)
    here[0, 0] = elsewhere[3, 3] = 1.0
    unread = np.full((4, 4), np.nan, np.float32)

    class Looks:
        def __init__(self, *given):
            pass

        def look_at(self, observations):
            return [{"wrist": np.stack([unread, here, elsewhere, here])} for _ in observations]

    monkeypatch.setattr(film, "PolicyMaps", Looks)
    monkeypatch.setattr(film, "episode_frames", keep)
    write_film(tmp_path / "film.mp4", observations(2), actor)
    assert drawn["words"] == ["pick", "up", "the", "milk"]
    assert drawn["phrases"] == [[3]]
    assert drawn["maps"].keys() == {"wrist"}
    assert drawn["maps"]["wrist"].shape == (2, 4, 4, 4)
    assert np.isfinite(drawn["maps"]["wrist"]).all()


def test_empty_cameras_do_not_decide_how_large_pictures_are(checkpoint):
    actor = Actor.load(checkpoint)
    empty = PolicyFeature(type=FeatureType.VISUAL, shape=(3, 480, 640))
    actor.policy.config.input_features["observation.images.empty_camera_0"] = empty
    assert actor.image_size == 32


def test_what_is_no_checkpoint_is_refused(checkpoint, tmp_path):
    with pytest.raises(FoveaError, match=r"config.json in .*, found none"):
        Actor.load(tmp_path)
    with pytest.raises(FoveaError, match="no setting 'n_actions'"):
        Actor.load(checkpoint, n_actions=3)


@pytest.mark.parametrize(("stride", "length"), [(1, 1), (3, 3)])
def test_an_actor_plays_ahead_to_the_next_frame_that_matters(checkpoint, stride, length):
    actor = Actor.load(checkpoint, obs_stride=stride)
    frames = observations(2)
    states = [actor.new_episode(0) for _ in frames]
    ahead, shown = actor.play(states, actor.batch(frames), every_frame=[False, True])
    assert (ahead.shape, shown.shape) == ((length, 7), (1, 7))
    expected = Actor.load(checkpoint, obs_stride=stride)
    state = expected.new_episode(0)
    steps = [expected.act([state], expected.batch([frame]))[0] for frame in observations(1) * length]
    np.testing.assert_allclose(ahead, steps, atol=1e-6)
