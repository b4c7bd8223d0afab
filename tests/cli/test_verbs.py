"""Each verb's flags and what it refuses; what a verb does is tested where it is implemented."""

import pytest

from fovea.cli import main
from fovea.cli.verbs import VERBS

CALLS = [[name, *list(verb.choices or [])[:1]] for name, verb in VERBS.items() if not verb.hands_over]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_help_lists_the_flags_and_examples(call, capsys):
    assert main([*call, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: fovea {' '.join(call)}" in out
    assert "--config_path" in out
    for example in VERBS[call[0]].examples:
        assert example in out


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_flag_that_does_not_exist_is_refused(call, capsys):
    assert main([*call, "--no-such-flag", "1"]) == 2
    assert "there is no flag --no-such-flag" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.hands_over])
def test_a_verb_that_hands_flags_over_explains_itself(name, capsys):
    assert main([name]) == main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: fovea {name}" in out
    assert all(example in out for example in VERBS[name].examples)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("demo --episodes 0", "episodes"),
        ("demo --tasks []", "at least one task"),
        ("demo --demonstrations 0", "episodes"),
        ("demo --tasks [99]", "99"),
        ("reproduce focus-vla --episodes 25", "up to state 49 of libero_spatial"),
        ("reproduce ef-vla --suites libero_90 --episodes 21", "up to state 19 of fovea_unseen"),
        ("collect --layout drwn", "official, drawn"),
        ("collect --suite libero_objct", "libero_object"),
        ("cache", "needs --dataset"),
        ("cache --dataset x --workers 0", "workers"),
        ("cache --dataset x --variants -1", "variants"),
        ("cache --dataset x --augment.contrast 1.2,0.8", "contrast"),
        ("pretrain --contrast clap", "siglip or clip"),
        ("train", "needs --dataset"),
        ("train --dataset x --preset tny", "tiny"),
        ("train --dataset x --policy.n_heads 7", "n_heads"),
        ("train --dataset x --steps 0", "steps"),
        ("train --dataset x --augment.hue 0.7", "hue"),
        ("train --dataset x --variants -1", "variants"),
        ("train --dataset x --loaders 0", "loaders"),
        ("eval", "needs --checkpoint"),
        ("eval --checkpoint x --layout drwn", "drwn"),
        ("eval --checkpoint x --init_states 40,49 --episodes 20", "allow 10 episodes"),
        ("eval --checkpoint x --suite libero_objct", "libero_object"),
        ("eval --checkpoint x --suite libero_goal,libero_goal", "different suites"),
        ("eval --checkpoint x --max_steps 0", "max_steps"),
        ("eval --checkpoint x --init_states 45,60 --tasks 0 --episodes 2", "states 0 to 49, got 60"),
        ("eval --checkpoint x --suite libero_goal_with_milk", "ask for --episodes 10"),
        ("eval --checkpoint x --ray_address head:6379", "--engine ray"),
        ("eval --checkpoint nowhere --tasks 0", "nowhere"),
        ("eval --checkpoint nowhere --tasks 77", "77"),
        ("report --run nowhere", "nowhere"),
        ("graft", "needs --backbones, --encoders"),
        (
            "graft --backbones nowhere --encoders tiny --suites libero_object",
            "fovea collect --suite libero_object",
        ),
        ("graft --backbones a b --encoders tiny tiny", "--encoders: expected different names"),
        ("graft --backbones a --encoders tiny --controls blind", "zero_embedding"),
        ("graft --backbones a --encoders tiny --seeds 0", "--seeds"),
        ("graft --backbones a --encoders tiny --recipe.batch_size 1", "recipe.batch_size"),
        ("graft --backbones a --encoders tiny --ray_address head:6379", "--engine ray"),
        ("bench graft --dataset nowhere", "nowhere"),
        ("reproduce graft --scale huge", "huge"),
        ("reproduce graft --backbone_steps 5", "one number for each of"),
        ("lerobot-eval --env.task=libero_object", "needs --policy.path"),
        ("lerobot-eval --policy.path x --env.type pusht", "prepares libero, got pusht"),
        ("lerobot-eval --policy.path x --env.task libero_objct", "libero_object"),
    ],
)
def test_bad_input_is_named_and_nothing_is_left_behind(line, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    assert hint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_train_starts_from_a_preset_and_keeps_the_flags_that_were_given():
    from fovea.cli import flags
    from fovea.cli.train import Config

    line = "--dataset d --preset b32 --policy.fusion late --policy.dim_model 128 --steps 7"
    config = flags.parse(Config, line.split(), "fovea train")
    policy = config.policy_config()
    assert (policy.encoder, policy.fusion, policy.dim_model) == ("ViT-B-32/openai", "late", 128)
    assert config.steps == 7
    assert policy.camera_keys
