"""`fovea bench ef-vla` at toy sizes: what it compares is what it says; no speed is asserted."""

import json

import open_clip
import pytest
import torch

from fovea.cli import bench_ef_vla as verb
from fovea.cli import main
from fovea.errors import FoveaError
from fovea.pipelines import bench_ef_vla, bench_ef_vla_measure
from fovea.pipelines.bench_ef_vla import BenchEFVLAConfig
from fovea.pipelines.bench_ef_vla_measure import SENTENCES, fill_history, observation, pictures
from fovea.pipelines.bench_ef_vla_models import build
from fovea.pipelines.bench_ef_vla_reference import ReferenceController

TOY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
ACT = {
    **{
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 32,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
    },
    **{"chunk_size": 4, "n_action_steps": 4},
}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """open_clip knows a toy, and ACT is one."""
    known = open_clip.get_model_config
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: TOY if name == "ViT-toy" else known(name))
    monkeypatch.setattr(bench_ef_vla_measure, "ACT_SIZES", ACT)


def config(**changes) -> BenchEFVLAConfig:
    sizes = {"clip": "ViT-toy", "context": 2, "batch": 3, "dim_model": 32, "n_layers": 1, "n_heads": 2}
    counts = {"train_steps": 1, "rounds": 2, "frames": 3, "act_batch": 1, "int8": False}
    return BenchEFVLAConfig(**{**sizes, **counts, **changes})


def test_the_command_prints_every_figure_and_writes_the_page(tmp_path, capsys):
    page = tmp_path / "speed.md"
    verb.run(config(int8=True, json=True, out=page))
    found = json.loads(capsys.readouterr().out)
    assert found["training"]["windows_per_second"].keys() == {"fovea", "reference"}
    speeds = found["training"]["windows_per_second"]
    assert found["training"]["ratio"] == pytest.approx(speeds["fovea"] / speeds["reference"], abs=0.1)
    assert (
        found["training"]["cache_bytes"] == 2 * 4 * 8 * 2 * 16 * 32
    )  # float16, episodes, frames, cameras, N, D
    variants = {"reference", "reference_words_kept", "fovea", "openvino_fp32", "openvino_bf16", "int8"}
    assert found["control"]["ms"].keys() == found["control"]["hz"].keys() == variants
    assert 0 <= found["int8"]["pointing_agreement"] <= 1
    assert found["int8"]["feature_cosine"] > 0.95
    assert 0 < found["int8"]["action_deviation"] < 0.1
    assert found["act"]["control_ms"] > 0
    # two pictures of 17 tokens through two blocks of width 64, the last one's MLP included
    linear = 2 * 2 * 17 * 2 * 12 * 64 * 64 / 1e9
    assert linear < found["gflops"]["pictures"] < 1.5 * linear
    text = page.read_text()
    assert "`fovea bench ef-vla --clip ViT-toy --context 2 --batch 3" in text
    assert "| Fovea, int8 on OpenVINO |" in text
    assert bench_ef_vla.table(found) in text


def test_the_published_form_steps_as_it_trains():
    _, reference = build(config(context=3))
    reference.eval()
    seen = torch.from_numpy(pictures(6, 32)).permute(0, 3, 1, 2).contiguous().unflatten(0, (1, 3, 2))
    state = torch.randn(1, 3, 10)
    with torch.no_grad():
        patches = reference.patches(seen.flatten(0, 2)).unflatten(0, (1, 3, 2))
        whole = reference.predict(reference.tokens(patches, reference.words(SENTENCES[:1]), state))
    controllers = ReferenceController(reference), ReferenceController(reference, keep_words=True)
    for time in range(3):
        for controller in controllers:
            chunk = controller.step(seen[0, time], SENTENCES[0], state[0, time])
            assert torch.allclose(chunk, whole[0, time], atol=1e-5)


def test_both_read_the_same_patches_and_train_alike_many_parameters():
    ours, reference = build(config())
    seen = torch.from_numpy(pictures(3, 32)).permute(0, 3, 1, 2).contiguous()
    mine = ours.encoder.encode_image(seen).values
    assert torch.allclose(mine, reference.patches(seen), atol=1e-5)
    counts = [sum(p.numel() for p in params) for params in (ours.parameters(), reference.trained())]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


def test_the_published_form_learns_all_but_its_clip():
    _, reference = build(config())
    seen = torch.from_numpy(pictures(4, 32)).permute(0, 3, 1, 2).contiguous().unflatten(0, (1, 2, 2))
    reference.loss(seen, SENTENCES[:1], torch.randn(1, 2, 10), torch.randn(1, 2, 12, 7)).backward()
    assert all(parameter.grad is not None for parameter in reference.trained())
    assert all(parameter.grad is None for parameter in reference.clip.parameters())


def test_a_filled_history_is_a_full_context():
    ours, _ = build(config(context=4))
    fill_history(ours, 4)
    (state,) = ours._states
    assert len(state.tokens) == 4
    assert ours.predict_action_chunk(observation(0, 32)).shape == (1, 12, 7)
    assert len(ours._states[0].tokens) == 4


def test_bad_flags_are_named(capsys):
    assert main("bench ef-vla --batch 0".split()) == 2
    assert "batch" in capsys.readouterr().err
    with pytest.raises(FoveaError, match="plain vision transformer such as ViT-B-32, got 'RN50x'"):
        build(config(clip="RN50x"))
