"""Public files that are not quite as expected: each is refused by name, or read for what it says."""

import json
from dataclasses import replace

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import save_file

from fovea.cli import main
from fovea.errors import FoveaError
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig
from fovea.policies.vla_adapter.convert_vla_adapter import convert_vla_adapter
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy
from fovea.vlm import VLMConfig, create_vlm
from fovea.vlm.load_prismatic import public_names
from fovea.vlm.lora import merge_lora

HEAD, PROPRIO = "action_head.model.", "proprio_projector."
TOY = VLMConfig.preset("toy_full", trainable="nothing")


def base_weights(
    action: int = 7, proprio: int = 8, blocks: int = 2, width: int = 32
) -> dict[str, torch.Tensor]:
    """VLA-Adapter base in the release's names."""
    shapes = {
        f"{HEAD}layer_norm1": (action * width,),
        f"{HEAD}fc1": (width, action * width),
        f"{HEAD}layer_norm2": (width,),
        f"{HEAD}fc2": (action, width),
        f"{PROPRIO}fc1": (width, proprio),
        f"{PROPRIO}fc2": (width, width),
    }
    for block in range(blocks):
        inside = f"{HEAD}mlp_resnet_blocks.{block}."
        shapes |= {f"{inside}{name}_proj": (width, width) for name in "qkvo"}
        shapes |= {f"{inside}ffn.0": (width,), f"{inside}ffn.1": (width, width)}
    weights = {f"{name}.weight": torch.randn(shape) * 0.2 for name, shape in shapes.items()}
    weights |= {f"{name}.bias": torch.randn(shape[0]) * 0.2 for name, shape in shapes.items()}
    return weights | {
        f"{HEAD}mlp_resnet_blocks.{block}.gating_factor": torch.zeros(1) for block in range(blocks)
    }


def convert(folder, *flags: str) -> int:
    words = [
        "convert",
        "vla-adapter",
        str(folder / "public.safetensors"),
        str(folder / "policy"),
        "--n_heads",
        "4",
    ]
    return main([*words, *flags])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (f"{HEAD}mlp_resnet_blocks.1.k_proj.weight", torch.zeros(32, 40), "(32, 40) instead of (32, 32)"),
        (f"{HEAD}mlp_resnet_blocks.0.gating_factor", torch.tensor(0.0), "() instead of (1,)"),
        (f"{HEAD}fc1.weight", torch.zeros(32), "expected a matrix as action_head.model.fc1.weight"),
    ],
)
def test_weights_that_do_not_fit_one_another_are_named(key, value, words, tmp_path, capsys):
    save_file(base_weights() | {key: value}, tmp_path / "public.safetensors")
    assert convert(tmp_path) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "policy").exists()


def test_a_comparison_with_nothing_is_no_success(tmp_path, capsys):
    save_file(base_weights(), tmp_path / "public.safetensors")
    assert convert(tmp_path) == 0
    assert (
        "No dataset_statistics.json there: states and actions are taken to be scaled"
        in capsys.readouterr().out
    )
    assert convert(tmp_path, "--check", str(tmp_path / "public.safetensors")) == 2
    assert "expected samples with in.vision_states" in capsys.readouterr().err
    samples = {"in.vision_states": torch.zeros(1, 3, 4, 32), "in.query_states": torch.zeros(1, 3, 2, 32)}
    save_file(samples | {"in.proprio": torch.zeros(1, 8)}, tmp_path / "inputs.safetensors")
    assert convert(tmp_path, "--check", str(tmp_path / "inputs.safetensors")) == 2
    assert "expected outputs (out.*) beside the inputs" in capsys.readouterr().err


def statistics(size: int, **action: object) -> str:
    edges = {"q01": [-1.0] * size, "q99": [3.0] * size}
    return json.dumps({"arms": {"proprio": edges, "action": edges | action}})


def test_the_mask_of_the_statistics_says_whether_the_last_action_is_a_gripper(tmp_path):
    save_file(base_weights(action=14, proprio=14), tmp_path / "public.safetensors")
    told = tmp_path / "dataset_statistics.json"
    for mask, gripper in (([True] * 14, "as_is"), ([True] * 13 + [False], "one_is_open")):
        told.write_text(statistics(14, mask=mask))
        assert (
            convert_vla_adapter(tmp_path / "public.safetensors", tmp_path / "p", n_heads=4).config.gripper
            == gripper
        )
    told.write_text(statistics(14, mask=([True] * 6 + [False]) * 2))
    with pytest.raises(FoveaError, match=r"to leave out the last action or none, got \[True"):
        convert_vla_adapter(tmp_path / "public.safetensors", tmp_path / "p", n_heads=4)


@pytest.mark.parametrize("gripper", [True, False])
def test_narrow_ranges_of_public_weights_stay_narrow(tmp_path, gripper):
    save_file(base_weights(), tmp_path / "public.safetensors")
    edges = {"q01": [-0.02] * 8, "q99": [0.02] * 8}
    action = {"q01": [-0.02] * 7, "q99": [0.02] * 7, "mask": [True] * 6 + [not gripper]}
    told = json.dumps({"arm": {"proprio": edges, "action": action}})
    (tmp_path / "dataset_statistics.json").write_text(told)
    policy = convert_vla_adapter(tmp_path / "public.safetensors", tmp_path / "p", n_heads=4)
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(tmp_path / "p"))
    seen = before({"observation.state": torch.full((1, 8), 0.02), "task": ["go"]})
    assert torch.allclose(seen["observation.state"], torch.ones(1, 8), atol=1e-4)
    played = after(torch.ones(1, 7))
    assert torch.allclose(played[:, :6], torch.full((1, 6), 0.02), atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"x": [1]}',
        '{"x": {"proprio": 1, "action": {}}}',
        statistics(8, q01=["a"] * 7),
        statistics(7),
        json.dumps({"x": {"proprio": {"q01": [float("nan")] * 8, "q99": [1.0] * 8}, "action": {}}}),
    ],
)
def test_statistics_that_make_no_sense_are_refused(text, tmp_path, capsys):
    save_file(base_weights(), tmp_path / "public.safetensors")
    (tmp_path / "dataset_statistics.json").write_text(text)
    assert convert(tmp_path) == 2
    assert "dataset_statistics.json" in capsys.readouterr().err


def public_vlm(folder, drop: str | None = None) -> None:
    torch.manual_seed(2)
    state = public_names(create_vlm(TOY).state_dict(), "hf")
    folder.mkdir()
    kept = {key: value.clone() for key, value in state.items() if drop is None or not key.startswith(drop)}
    save_file(kept, folder / "model.safetensors")


def test_the_vlm_must_be_the_one_that_was_finetuned_with_the_policy(tmp_path):
    save_file(base_weights(), tmp_path / "public.safetensors")
    for name, drop in (("finetuned", None), ("before", "action_queries")):
        public_vlm(tmp_path / name, drop)
    vlm = replace(TOY, checkpoint=str(tmp_path / "finetuned"))
    policy = convert_vla_adapter(tmp_path / "public.safetensors", tmp_path / "policy", n_heads=4, vlm=vlm)
    assert policy.config.vlm.compat  # the release's states, whoever asks
    with pytest.raises(FoveaError, match="whose file holds action_queries"):
        convert_vla_adapter(
            tmp_path / "public.safetensors",
            tmp_path / "other",
            n_heads=4,
            vlm=replace(TOY, checkpoint=str(tmp_path / "before")),
        )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_of_shards_is_named(text, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(FoveaError, match=r"model\.safetensors\.index\.json"):
        create_vlm(replace(TOY, checkpoint=str(tmp_path)))


@pytest.mark.parametrize("content", [b"hello world", b".", b""])
def test_a_damaged_prismatic_file_is_named(content, tmp_path):
    (tmp_path / "latest-checkpoint.pt").write_bytes(content)
    with pytest.raises(FoveaError, match=r"tensors and nothing else in .*latest-checkpoint\.pt"):
        create_vlm(replace(TOY, checkpoint=str(tmp_path / "latest-checkpoint.pt")))


@torch.no_grad()
def test_a_head_that_was_parted_from_its_embedding_leaves_the_embedding_alone(tmp_path):
    torch.manual_seed(3)
    adapted = create_vlm(VLMConfig.preset("toy_full"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.1)
    merge_lora(adapted)
    features = torch.randn(2, 200, 128)
    expected = adapted(features, ["go", "stop"]).queries
    state = {key: value.clone() for key, value in public_names(adapted.state_dict(), "hf").items()}
    assert not torch.equal(
        state["language_model.lm_head.weight"], state["language_model.model.embed_tokens.weight"]
    )
    save_file(state, tmp_path / "model.safetensors")
    again = create_vlm(replace(TOY, checkpoint=str(tmp_path)))
    assert torch.allclose(again(features, ["go", "stop"]).queries, expected, atol=1e-4)


def test_k_is_half_of_the_tokens_of_whichever_vlm():
    assert FocusVLAConfig().top_k == FocusVLAConfig.preset("tiny").top_k == 64
    assert FocusVLAConfig(vlm=VLMConfig(kind="prismatic")).top_k == FocusVLAConfig.preset("full").top_k == 256
    assert FocusVLAConfig(vlm=VLMConfig(kind="prismatic"), top_k=64).top_k == 64
    assert FocusVLAConfig(top_k=None).top_k is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: FocusVLAConfig(vlm=VLMConfig.full(compat=True)),
            "expected representation=vlm and pool_vision=false",
        ),
        (lambda: VLAAdapterConfig(variant="base", rotary="true"), "expected rotary=none with variant=base"),
        (
            lambda: VLAAdapterConfig(variant="pro", compat=True, rotary="true"),
            "expected rotary=compat with variant=pro",
        ),
    ],
)
def test_settings_that_contradict_one_another_are_refused(make, words):
    with pytest.raises(FoveaError, match=words):
        make()


@torch.no_grad()
def test_a_policy_in_half_precision_acts_as_in_full(tmp_path):
    save_file(base_weights(), tmp_path / "public.safetensors")
    convert_vla_adapter(tmp_path / "public.safetensors", tmp_path / "policy", n_heads=4, chunk_size=3)
    policy = VLAAdapterPolicy.from_pretrained(tmp_path / "policy")
    batch = {
        "observation.vlm.vision": torch.randn(2, 2, 6, 32),
        "observation.vlm.queries": torch.randn(2, 2, 4, 32),
        "observation.vlm.mask": torch.tensor([[True] * 6, [True] * 4 + [False] * 2])[:, None],
        "observation.state": torch.rand(2, 1, 8),
    }
    full = policy.predict(batch)
    half = policy.bfloat16().predict(batch)
    assert half.dtype == torch.float32
    assert torch.allclose(half, full, atol=0.1)
    assert not torch.equal(half, full)
