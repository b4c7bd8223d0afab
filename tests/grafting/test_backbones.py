"""The adapters agree with LeRobot's own policies, and say what is wrong with a checkpoint."""

import copy
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_graft import SIZES, Columns, make_backbone
from toy_pi05 import make_pi05, small_sizes

from fovea.data import keys
from fovea.data.dataset import open_dataset
from fovea.errors import FoveaError
from fovea.grafting.hooks import find_hook
from fovea.grafting.loading import checkpoint_folder, load_backbone, use_data_statistics
from fovea.grafting.native import SIZES as NAMED
from fovea.grafting.native import statistics
from fovea.grafting.training import lora, masked_mean
from fovea.grafting.wrapper import Graft, Projector


@pytest.fixture(scope="module")
def pi05(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pi05")
    with small_sizes(folder / "vlm"):
        make_pi05(folder, statistics([open_dataset(data / "left")]))
        yield load_backbone(str(folder))


@pytest.fixture
def batch(samples):
    """Recorded states, chunks and sentences, and their pictures in [0, 1]."""
    moments = samples.train[:4]
    pictures = {
        key: torch.stack(
            [
                torch.from_numpy(samples.dataset.frames(m.episode.index, key)[m.step].copy()).permute(2, 0, 1)
                for m in moments
            ]
        )
        for key in keys.IMAGES
    }
    return samples.batch(moments, 4), pictures


def test_smolvlas_flow_loss_and_chunks_are_lerobots_own(backbone, batch):
    recorded, pictures = batch
    inputs = backbone.inputs(recorded)
    noise, time = torch.randn(4, 4, 8), torch.rand(4)
    images = [backbone.shown(own) for own in pictures.values()]
    whole = backbone.before({**recorded, **{k: v.float() / 255 for k, v in pictures.items()}})
    loss, _ = backbone.policy.forward(dict(whole), noise=noise, time=time)
    mine = masked_mean(backbone.velocity_loss(inputs, images, noise, time), inputs.is_pad)
    assert mine.item() == pytest.approx(loss.item(), rel=1e-5)
    backbone.policy.config.num_steps = 10
    chunk = backbone.policy.predict_action_chunk(dict(whole), noise=noise)
    with torch.no_grad():
        assert torch.allclose(backbone.sample(inputs, images, noise), chunk, atol=1e-5)


def test_pi05s_chunks_are_lerobots_own(pi05, batch):
    recorded, pictures = batch
    inputs = pi05.inputs(recorded)
    noise = torch.randn(4, 4, 8)
    images = [pi05.shown(own) for own in pictures.values()]
    whole = pi05.before({**recorded, **{k: v.float() / 255 for k, v in pictures.items()}})
    chunk = pi05.policy.predict_action_chunk(dict(whole), noise=noise)
    assert torch.allclose(pi05.sample(inputs, images, noise), chunk, atol=1e-5)
    assert inputs.actions.shape == (4, 4, 8)
    assert torch.equal(inputs.actions[..., 7], torch.zeros(4, 4))


def test_a_graft_learns_on_pi05_and_nothing_else_does(pi05, batch):
    recorded, _ = batch
    inputs, encoder = pi05.inputs(recorded), Columns()
    projector = Projector(encoder.grid, encoder.width, pi05.side, pi05.width)
    tokens = [torch.randn(4, 64, 4) for _ in keys.IMAGES]
    with Graft(pi05.hook, projector):
        loss = pi05.velocity_loss(inputs, tokens, torch.randn(4, 4, 8), torch.rand(4))
        loss.mean().backward()
    assert projector.linear.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in pi05.policy.parameters())


def test_the_native_tokens_are_the_towers_through_the_connector(pi05, backbone, batch):
    _, pictures = batch
    picture = next(iter(pictures.values()))
    for own, width in ((backbone, 32), (pi05, 32)):
        assert own.embed(picture).shape == (4, own.side**2, width) == (4, 16, 32)
        (rows, columns), tower = own.tower_shape
        patches = own.tower(own.shown(picture))
        assert patches.shape == (4, rows * columns, tower)
        assert torch.allclose(own.connect(patches), own.embed(picture), atol=1e-6)


@pytest.mark.parametrize("which", ["backbone", "pi05"])
def test_lora_sits_on_the_language_model_and_the_expert_only(which, request):
    own = request.getfixturevalue(which)
    before = [name for name, _ in own.policy.named_parameters()]
    with lora(own, 2, seed=0) as parameters:
        names = sorted(parameters)
        assert all("lora_" in name and "vision" not in name for name in names)
        assert any("expert" in name for name in names)
        assert any("text_model" in name or "language_model" in name for name in names)
    assert [name for name, _ in own.policy.named_parameters()] == before


def test_adapters_are_as_precise_as_a_projector_also_in_a_checkpoint_of_half_precision(backbone):
    policy = copy.deepcopy(backbone.policy)
    backbone.policy.to(torch.bfloat16)
    try:
        with lora(backbone, 2, seed=0) as parameters:
            assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    finally:
        backbone.policy.to(torch.float32).load_state_dict(policy.state_dict())


def test_another_robots_statistics_are_named(backbone, samples):
    batch = samples.batch(samples.train[:2], backbone.chunk)
    batch["observation.state"] = batch["observation.state"][:, :6]
    with pytest.raises(FoveaError, match=r"observation\.state of 8 numbers.*got 6; it is of another robot"):
        backbone.inputs(batch)


def test_another_tokenizer_is_another_backbone(trained, tmp_path):
    vlm = next(trained.rglob("vlm"))
    words = shutil.copytree(vlm, tmp_path / "words")
    same = load_backbone("toy", root=trained, tokenizer=str(words)).identity
    assert same == load_backbone("toy", root=trained).identity
    file = words / "tokenizer_config.json"
    file.write_text(file.read_text() + "\n")
    assert load_backbone("toy", root=trained, tokenizer=str(words)).identity != same


def test_a_chunk_of_another_length_is_refused(backbone, samples):
    with pytest.raises(FoveaError, match=r"expected chunks of 4 actions.*got \(6, 7\)"):
        backbone.inputs(samples.batch(samples.train[:2], 6))


def test_a_policy_without_the_hook_says_which_lerobot_is_known(backbone):
    with pytest.raises(FoveaError, match=r"model.vlm_with_expert.embed_image.*known to work with 0\.6\.1"):
        find_hook(torch.nn.Module(), "smolvla", (32, 32))
    with pytest.raises(FoveaError, match="smolvla or pi05, got 'act'"):
        find_hook(backbone.policy, "act", (32, 32))


def test_a_missing_checkpoint_is_named_with_what_there_is(tmp_path):
    with pytest.raises(FoveaError, match=r"no checkpoint.*'smolvla-libro'.*Did you mean 'smolvla-libero'"):
        checkpoint_folder("smolvla-libro", tmp_path)


def test_a_released_checkpoint_that_cannot_be_had_says_where_it_lives(monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(FoveaError, match=r"huggingface\.co/lerobot/pi05_base is wanted"):
        load_backbone("pi05")


def test_a_policy_of_another_type_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained / "toy", tmp_path / "copy") / "pretrained_model"
    text = (folder / "config.json").read_text().replace('"type": "smolvla"', '"type": "act"')
    (folder / "config.json").write_text(text)
    with pytest.raises(FoveaError, match=r"LeRobot cannot read|expected a policy of type smolvla or pi05"):
        load_backbone(str(folder))


@pytest.mark.parametrize("change", ["drop", "cut"])
def test_a_checkpoint_with_damaged_weights_is_refused(change, trained, tmp_path):
    folder = shutil.copytree(trained / "toy", tmp_path / "copy") / "pretrained_model"
    weights = load_file(folder / "model.safetensors")
    if change == "drop":
        del weights["model.state_proj.weight"]
        save_file(weights, folder / "model.safetensors")
    else:
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(FoveaError, match="cannot load the smolvla backbone"):
        load_backbone(str(folder))


def test_pi05_with_weights_that_do_not_fit_is_refused_where_lerobot_goes_on(pi05, tmp_path):
    """LeRobot prints a warning and keeps random weights."""
    source = checkpoint_folder(pi05.name)
    folder = shutil.copytree(source.parent, tmp_path / "copy") / "pretrained_model"
    weights = {name: value + 1 for name, value in load_file(folder / "model.safetensors").items()}
    weights["model.action_in_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(FoveaError, match=r"action_in_proj\.weight does not fit"):
        load_backbone(str(folder))


def test_a_base_checkpoint_without_statistics_takes_the_data_sets(trained, data, tmp_path):
    folder = shutil.copytree(trained / "toy", tmp_path / "copy")
    for path in (folder / "pretrained_model").glob("policy_*"):
        path.unlink()
    own = load_backbone(str(folder))
    assert not own.own_statistics
    dataset = open_dataset(data / "right")
    use_data_statistics(own, statistics([dataset]))
    chunk = torch.zeros(1, 4, 7)
    assert torch.allclose(own.real_units(chunk)[0, 0], torch.from_numpy(dataset.action).mean(0), atol=1e-5)


def test_named_sizes_are_consistent():
    for name, sizes in {**NAMED, "toy": SIZES}.items():
        assert sizes.image_size % (sizes.patch_size * sizes.shuffle) == 0, name
        assert sizes.vision_width % sizes.vision_heads == 0, name
        assert sizes.heads % sizes.kv_heads == 0, name


def test_two_seeds_give_two_backbones(data, tmp_path):
    first, second = (make_backbone(tmp_path / str(s), [data / "left"], seed=s) for s in (0, 1))
    assert load_backbone(str(first)).identity != load_backbone(str(second)).identity
