import json
import math
import shutil
import signal

import numpy as np
import pytest
import torch
import toy_training
from toy_training import T, ToyPolicy, run, toy_policy, toy_processors, toy_source
from warm_processes import start

from fovea.data.files import locked
from fovea.errors import FoveaError
from fovea.training.checkpoint import last_checkpoint
from fovea.training.metrics import read_metrics
from fovea.training.policies import parameter_groups
from fovea.training.trainer import TrainConfig


class StopsAt25(type(toy_source())):
    """Stands for Ctrl-C when step 25 is drawn."""

    def sample(self, seed, step, count):
        if step == 25:
            raise KeyboardInterrupt
        return super().sample(seed, step, count)


def losses(result):
    names = ("step", "loss", "gradient_norm", "validation_loss")
    return [[entry.get(name) for name in names] for entry in read_metrics(result.metrics)]


def test_learns_and_leaves_a_policy_that_lerobot_loads(tmp_path):
    result = run(tmp_path, steps=150)
    entries = read_metrics(result.metrics)
    assert result.loss < 0.7 * entries[0]["loss"]
    assert result.validation_loss < entries[0]["loss"]
    assert result.steps == 150
    assert result.curve.read_bytes()[1:4] == b"PNG"
    assert result.checkpoint.name == "000150"
    assert (tmp_path / "checkpoints" / "last").resolve() == result.checkpoint
    names = {path.name for path in result.policy_path.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "policy_preprocessor.json",
        "policy_postprocessor.json",
    } <= names
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".pkl", ".tmp")]
    policy = ToyPolicy.from_pretrained(result.policy_path, strict=True)
    assert policy.select_action({"observation.state": torch.zeros(1, 8)}).shape == (1, 7)
    kept = list((tmp_path / "checkpoints").glob("[0-9]*/training_state"))
    assert [path.parent.name for path in kept] == ["000150"]


def test_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = run(tmp_path / "whole")
    killed = start(toy_training.run_and_die, tmp_path / "killed")
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed").name == "000020"
    resumed = run(tmp_path / "killed")
    assert resumed.resumed_from == 20
    assert losses(resumed) == losses(whole)
    for name in ("pretrained_model/model.safetensors", "training_state/state.safetensors"):
        assert (resumed.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()


@pytest.mark.parametrize("last", ["a folder", "gone", "dangling"])
def test_a_run_whose_link_to_the_last_checkpoint_was_lost_goes_on(last, tmp_path):
    whole = run(tmp_path / "whole")
    stopped = tmp_path / "stopped"

    with pytest.raises(KeyboardInterrupt):
        run(stopped, source=toy_source(source_class=StopsAt25))
    copied = shutil.copytree(stopped, tmp_path / "copied", symlinks=last != "a folder")
    link = copied / "checkpoints" / "last"
    assert link.is_symlink() == (last != "a folder")
    if last != "a folder":
        link.unlink()
    if last == "dangling":
        link.symlink_to("000015")
    resumed = run(copied)
    assert resumed.resumed_from == 20
    assert losses(resumed) == losses(whole)
    assert link.is_symlink()
    assert link.resolve() == resumed.checkpoint


def test_means_of_a_report_survive_a_checkpoint_between_reports(tmp_path):
    whole = run(tmp_path / "whole", log_every=7)
    run(tmp_path / "parts", log_every=7, save_every=4)
    checkpoints = tmp_path / "parts" / "checkpoints"
    assert len(list(checkpoints.glob("[0-9]*"))) == 10
    stopped = tmp_path / "stopped"

    with pytest.raises(KeyboardInterrupt):
        run(stopped, log_every=7, save_every=4, source=toy_source(source_class=StopsAt25))
    assert losses(run(stopped, log_every=7, save_every=4)) == losses(whole)


def test_finished_run_is_not_repeated(tmp_path):
    first = run(tmp_path)
    before = first.metrics.read_text()
    again = run(tmp_path)
    assert again.resumed_from == again.steps == 40
    assert again.metrics.read_text() == before
    assert again.loss == first.loss


def test_other_settings_are_refused(tmp_path):
    run(tmp_path, steps=10)
    with pytest.raises(FoveaError, match="steps was 10, is 12"):
        run(tmp_path, steps=12)
    with pytest.raises(FoveaError, match=r"data.episodes was \[0, 1, 2\], is \[3\]"):
        run(tmp_path, steps=10, source=toy_source("val"))
    policy = toy_policy()
    policy.config.n_obs_steps = 3
    with pytest.raises(FoveaError, match=r"policy.n_obs_steps was 1, is 3"):
        run(tmp_path, steps=10, policy=policy)


def test_damaged_checkpoint_is_named(tmp_path):
    result = run(tmp_path, steps=10)
    path = result.checkpoint / "training_state" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FoveaError, match=r"cannot go on from .*state.safetensors"):
        run(tmp_path, steps=10)


def test_nan_names_episode_and_frames(tmp_path):
    source = toy_source()
    bad = source.dataset.episodes[1]
    source.dataset.state[bad.start + 7] = np.nan
    with pytest.raises(FoveaError, match=r"loss became nan at step \d+: episode 1, frames") as caught:
        run(tmp_path, source=source)
    message = str(caught.value)
    assert "observation.state of the batch" in message
    assert "episode 0" not in message
    first, last = map(int, message.split("frames ")[1].split(" ")[0].split(".."))
    assert first <= 7 <= last < first + T


def test_nan_that_only_a_gradient_shows_is_named_too(tmp_path):
    class Root(ToyPolicy):
        def forward(self, batch):
            loss, parts = super().forward(batch)
            if (batch["observation.state"][:, :, 0] == 0).any():
                loss = loss + (self.scale * 0).sqrt()
            return loss, parts

    source = toy_source()
    source.dataset.state[source.dataset.episodes[2].start + 9] = 0.0
    policy = toy_policy()
    policy.__class__ = Root
    with pytest.raises(FoveaError, match=r"gradient became nan at step \d+: episode 2, frames") as caught:
        run(tmp_path, source=source, policy=policy)
    assert "episode 1" not in str(caught.value)


def test_diverging_weights_are_told_from_bad_data(tmp_path):
    policy = toy_policy()
    with torch.no_grad():
        policy.scale.fill_(float("inf"))
    with pytest.raises(FoveaError, match="weights themselves are not finite"):
        run(tmp_path, policy=policy)


def test_checkpoints_act_with_averaged_weights(tmp_path):
    from safetensors.torch import load_file

    result = run(tmp_path)
    acting = load_file(result.policy_path / "model.safetensors")
    state = load_file(result.checkpoint / "training_state" / "state.safetensors")
    torch.testing.assert_close(acting["net.0.weight"], state["average.net.0.weight"], rtol=0, atol=0)
    assert not torch.equal(acting["net.0.weight"], state["weights.net.0.weight"])
    assert acting["seen"] == 40


def test_gradients_are_clipped(tmp_path):
    changes = {"steps": 3, "weight_decay": 0.0, "ema_decay": 0.0}
    still = run(tmp_path, clip_norm=1e-12, **changes)  # far below AdamW's epsilon
    trained = dict(ToyPolicy.from_pretrained(still.policy_path).named_parameters())
    for name, parameter in toy_policy().named_parameters():
        torch.testing.assert_close(trained[name], parameter, atol=1e-5, rtol=0)


def test_validation_is_of_the_averaged_weights_that_act(tmp_path):
    result = run(tmp_path)
    policy, source = ToyPolicy.from_pretrained(result.policy_path).eval(), toy_source("val")
    batch = toy_processors(toy_policy())[0](source.batch(source.spread(16)))
    assert result.validation_loss == pytest.approx(policy(batch)[0].item(), rel=1e-5)


def test_every_step_and_every_seed_has_its_own_dropout(tmp_path):
    def seeds(seed):
        noted = []

        class Noting(ToyPolicy):
            def forward(self, batch):
                if self.training:
                    noted.append(torch.initial_seed())
                return super().forward(batch)

        policy = toy_policy()
        policy.__class__ = Noting
        run(tmp_path / str(seed), policy=policy, steps=10, seed=seed)
        return noted

    assert len({*seeds(0), *seeds(1)}) == 20


def test_weight_decay_spares_vectors_and_scalars():
    groups = parameter_groups(toy_policy(), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(parameter.ndim > 1 for parameter in groups[0]["params"])
    assert all(parameter.ndim <= 1 for parameter in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == 7


def test_a_group_with_its_own_rate_keeps_its_proportion(tmp_path):
    rates = []

    class Finetuned(ToyPolicy):
        def get_optim_params(self):
            tower = set(self.tower.parameters())
            rest = [parameter for parameter in self.parameters() if parameter not in tower]
            return [{"params": rest}, {"params": list(tower), "lr": 1e-5}]

    policy = toy_policy()
    policy.__class__, policy.config.optimizer_lr = Finetuned, 1e-3
    groups = parameter_groups(policy, 0.1)
    assert [group["lr_scale"] for group in groups] == [1.0, pytest.approx(0.01)]
    before = torch.optim.AdamW.step

    def step(self, *args, **kw):
        rates.append([group["lr"] for group in self.param_groups])
        return before(self, *args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        run(tmp_path, policy=policy, steps=12)
    assert len(rates) == 12
    assert len({rate for rate, _ in rates}) > 5
    assert all(slow == pytest.approx(0.01 * rate) for rate, slow in rates)


def test_a_setting_that_is_newer_than_the_run_had_its_default(tmp_path):
    run(tmp_path, steps=10)
    path = tmp_path / "checkpoints/000010/training_state/state.json"
    saved = json.loads(path.read_text())
    del saved["recipe"]["final_learning_rate"], saved["recipe"]["policy"]["n_obs_steps"]
    path.write_text(json.dumps(saved))
    path.with_name("checksums.json").unlink()  # that run had none either
    assert run(tmp_path, steps=10).resumed_from == 10
    with pytest.raises(FoveaError, match=r"final_learning_rate was 0.01, is 0.5"):
        run(tmp_path, steps=10, final_learning_rate=0.5)


def rewrite_state(folder, change):
    """Change the tensors of a training state whose checksums are gone."""
    from safetensors.torch import load_file, save_file

    path = folder / "training_state/state.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    (folder / "training_state/checksums.json").unlink(missing_ok=True)


def first(tensors, prefix):
    return next(name for name in sorted(tensors) if name.startswith(prefix) and tensors[name].ndim > 1)


@pytest.mark.parametrize(
    ("prefix", "change", "said"),
    [
        (
            "optimizer.exp_avg.",
            lambda tensor: tensor[:1],
            r"exp_avg: expected \S+ of shape \(.*\), got \(1, ",
        ),
        ("average.", lambda tensor: tensor[:1], r"average: expected \S+ of shape \(.*\), got \(1, "),
        ("optimizer.exp_avg.", None, r"expected \d+ tensors, found \d+"),
    ],
)
def test_a_training_state_with_damaged_tensors_is_refused(prefix, change, said, tmp_path):
    whole = run(tmp_path, steps=10)

    def damage(tensors):
        name = first(tensors, prefix)
        if change is None:
            del tensors[name]
        else:
            tensors[name] = change(tensors[name]).contiguous()

    rewrite_state(whole.checkpoint, damage)
    with pytest.raises(FoveaError, match=rf"cannot go on from .*{said}"):
        run(tmp_path, steps=10)


def test_a_training_state_without_moments_is_refused_even_if_nothing_says_how_many_there_were(tmp_path):
    whole = run(tmp_path, steps=10)

    def forget(tensors):
        for name in [name for name in tensors if name.startswith("optimizer.")]:
            del tensors[name]

    rewrite_state(whole.checkpoint, forget)
    path = whole.checkpoint / "training_state/state.json"
    state = json.loads(path.read_text())
    del state["tensors"]  # as in earlier versions
    path.write_text(json.dumps(state))
    with pytest.raises(FoveaError, match="the optimiser's moments are missing"):
        run(tmp_path, steps=10)


@pytest.mark.parametrize("content", ["{}", "[]", '{"step": "ten"}'])
def test_a_state_file_that_lacks_something_is_refused(content, tmp_path):
    whole = run(tmp_path, steps=10)
    (whole.checkpoint / "training_state/state.json").write_text(content)
    (whole.checkpoint / "training_state/checksums.json").unlink()
    with pytest.raises(FoveaError, match=r"state.json is damaged: it lacks step"):
        run(tmp_path, steps=10)


def test_a_copy_of_a_checkpoint_beside_it_is_no_checkpoint(tmp_path):
    whole = run(tmp_path, steps=10)
    copy = shutil.copytree(whole.checkpoint, whole.checkpoint.with_name("000010.bak"))
    (tmp_path / "checkpoints/last").unlink()
    assert last_checkpoint(tmp_path) == whole.checkpoint
    run(tmp_path / "other", steps=10)
    shutil.copytree(copy, tmp_path / "other/checkpoints/000004 (copy)")
    shutil.rmtree(tmp_path / "other/checkpoints/000010")
    (tmp_path / "other/checkpoints/last").unlink()
    assert run(tmp_path / "other", steps=10).resumed_from == 0
    assert (tmp_path / "other/checkpoints/000004 (copy)/training_state/state.json").is_file()


def test_other_statistics_are_another_run(tmp_path):
    run(tmp_path, steps=10)
    with pytest.raises(FoveaError, match=r"was started differently: scaling was"):
        run(tmp_path, steps=10, processors=toy_processors(toy_policy(), mean=1.0))


@pytest.mark.parametrize("line", [b"{broken", b"[1]", b"{}", b"\xff\xfe"])
def test_a_damaged_report_is_named_and_what_follows_it_is_kept(line, tmp_path):
    result = run(tmp_path, steps=10)
    whole = result.metrics.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = b"".join([lines[0], line + b"\n", *lines[1:]])
    result.metrics.write_bytes(damaged)
    with pytest.raises(FoveaError, match=r"metrics.jsonl, line 2: expected a report"):
        run(tmp_path, steps=10)
    assert result.metrics.read_bytes() == damaged


def test_one_folder_is_trained_in_by_one_process(tmp_path):
    with locked(tmp_path / ".lock"), pytest.raises(FoveaError, match="another process is working"):
        run(tmp_path, steps=10)
    assert run(tmp_path, steps=10).steps == 10


def test_processors_are_saved_with_their_statistics(tmp_path):
    from lerobot.processor import PolicyProcessorPipeline

    result = run(tmp_path, steps=10)
    loaded = PolicyProcessorPipeline.from_pretrained(
        result.policy_path, config_filename="policy_preprocessor.json"
    )
    batch = {"observation.state": torch.full((1, 8), 4.0), "task": ["reach"]}
    torch.testing.assert_close(loaded(batch)["observation.state"], torch.full((1, 8), 2.0), rtol=0, atol=1e-4)
    assert toy_processors(toy_policy())


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"ema_decay": 1.0},
        {"batch_size": -1},
        {"seed": -1},
        {"threads": 0},
        {"validation_windows": 0},
        {"weight_decay": -0.1},
        {"final_learning_rate": -1.0},
    ],
)
def test_senseless_settings(changes):
    with pytest.raises(FoveaError, match=next(iter(changes))):
        TrainConfig(**changes)


def test_half_written_metrics_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
