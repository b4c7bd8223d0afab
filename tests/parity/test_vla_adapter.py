"""The public VLA-Adapter implementation and ours give the same numbers (golden tensors, fp32, 1e-5)."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fovea.cli import main
from fovea.errors import FoveaError
from fovea.policies.vla_adapter.convert_vla_adapter import convert_vla_adapter
from fovea.policies.vla_adapter.modeling_vla_adapter import VLAAdapterPolicy
from fovea.vlm.config import VLMConfig
from fovea.vlm.states import VLMStates

GOLDENS = Path(__file__).parents[1] / "goldens"
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


def read(variant: str) -> dict[str, torch.Tensor]:
    name = {"base": "vla_adapter_tiny", "pro": "vla_adapter_pro_tiny"}[variant]
    with safe_open(GOLDENS / f"{name}.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def states(golden: dict[str, torch.Tensor]) -> VLMStates:
    """Entry 0 is the embeddings; block i reads entry i + 1."""
    vision, queries = (golden[f"in.{name}_states"][:, 1:].transpose(0, 1) for name in ("vision", "query"))
    return VLMStates(vision, queries, vision[-1])


def public_weights(golden: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        prefix + key.removeprefix("weights."): value
        for key, value in golden.items()
        if key.startswith("weights.")
    }


@pytest.fixture(scope="module", params=["base", "pro"])
def converted(request, tmp_path_factory):
    golden = read(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    save_file(public_weights(golden), folder / "public.safetensors")
    convert_vla_adapter(folder / "public.safetensors", folder / "policy")
    policy = VLAAdapterPolicy.from_pretrained(folder / "policy")
    return request.param, golden, policy, folder


@torch.no_grad()
def test_actions_from_zeros_and_from_a_given_latent(converted):
    variant, golden, policy, _ = converted
    assert policy.config.variant == variant
    from_zero = policy.model(states(golden), golden["in.proprio"])
    assert torch.allclose(from_zero, golden["out.actions_from_zero_latent"], **TOLERANCE)
    given = policy.model(states(golden), golden["in.proprio"], latent=golden["in.latent"])
    assert torch.allclose(given, golden["out.actions_from_latent"], **TOLERANCE)


def given(golden):
    """A batch that brings the states of a VLM that ran elsewhere."""
    return {
        "observation.state": golden["in.proprio"].clamp(-1, 1),
        "observation.vlm.vision": golden["in.vision_states"][:, 1:],
        "observation.vlm.queries": golden["in.query_states"][:, 1:],
        "task": ["pick up the milk"] * 2,
    }


def test_a_converted_policy_acts_on_states_from_its_batch(converted):
    _, golden, policy, _ = converted
    batch = given(golden)
    with torch.no_grad():
        expected = policy.model(states(golden), batch["observation.state"])
    played = torch.stack([policy.select_action(batch) for _ in range(8)], dim=1)
    assert torch.allclose(played[..., :-1], expected[..., :-1], atol=1e-6)
    closed = expected[..., -1] <= 0.5  # public weights speak of 1 as open; LIBERO closes at +1
    assert torch.equal(played[..., -1], torch.where(closed, 1.0, -1.0))


@torch.no_grad()
def test_a_converted_policy_goes_beyond_the_quantiles_as_the_release_does(converted):
    _, golden, policy, _ = converted
    bias = policy.model.head.linear.bias
    before = bias.clone()
    bias += 3.0
    chunk = policy.predict_action_chunk(given(golden))
    bias.copy_(before)
    assert (chunk[..., :-1] > 1).any()


def test_a_training_checkpoint_of_the_release_is_read_with_its_statistics(converted):
    _, golden, policy, folder = converted
    release = folder / "release"
    release.mkdir()
    weights = public_weights(golden)
    for part in ("action_head", "proprio_projector"):
        mine = {
            f"module.{key.removeprefix(part + '.')}": value
            for key, value in weights.items()
            if key.startswith(part)
        }
        torch.save(mine, release / f"{part}--150000_checkpoint.pt")
    action = {"q01": [-0.5] * 5 + [-0.01, 0.0], "q99": [0.5] * 5 + [0.01, 1.0]}
    (release / "dataset_statistics.json").write_text(
        json.dumps({"libero": {"action": action, "proprio": {"q01": [-2] * 8, "q99": [2] * 8}}})
    )
    convert_vla_adapter(release, folder / "again")
    again = VLAAdapterPolicy.from_pretrained(folder / "again")
    for name, value in policy.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    from lerobot.policies.factory import make_pre_post_processors

    before, after = make_pre_post_processors(again.config, pretrained_path=str(folder / "again"))
    unscaled = after(torch.tensor([[1.0, -1.0, 0.0, 0.0, 0.0, 1.0, -1.0]]))
    assert torch.allclose(unscaled, torch.tensor([[0.5, -0.5, 0.0, 0.0, 0.0, 0.01, -1.0]]), atol=1e-6)
    scaled = before({"observation.state": torch.ones(1, 8), "task": ["x"]})["observation.state"]
    assert torch.allclose(scaled, torch.full((1, 8), 0.5), atol=1e-6)


def test_incomplete_foreign_or_pickled_weights_are_named(tmp_path):
    weights = public_weights(read("pro"))
    lost = weights.pop("action_head.model.mlp_resnet_blocks.1.o_proj.bias")
    weights["action_head.model.mlp_resnet_blocks.1.extra"] = lost
    save_file(weights, tmp_path / "some.safetensors")
    with pytest.raises(FoveaError) as caught:
        convert_vla_adapter(tmp_path / "some.safetensors", tmp_path / "out")
    assert "missing action_head.model.mlp_resnet_blocks.1.o_proj.bias" in str(caught.value)
    assert "unexpected action_head.model.mlp_resnet_blocks.1.extra" in str(caught.value)
    save_file({"foo": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(FoveaError, match="expected VLA-Adapter's weights"):
        convert_vla_adapter(tmp_path / "foreign.safetensors", tmp_path / "out")
    with pytest.raises(FoveaError, match=r"got .*nowhere"):
        convert_vla_adapter(tmp_path / "nowhere", tmp_path / "out")
    torch.save({"action_head": Path("x")}, tmp_path / "action.pt")
    with pytest.raises(FoveaError, match="expected tensors and nothing else"):
        convert_vla_adapter(tmp_path / "action.pt", tmp_path / "out")


def test_a_public_checkpoint_is_never_overwritten_nor_taken_with_nan(tmp_path):
    weights = public_weights(read("pro"))
    save_file(weights, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    for source in (tmp_path / "model.safetensors", tmp_path):
        with pytest.raises(FoveaError, match="where it would overwrite what it is made from"):
            convert_vla_adapter(source, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    some = "action_head.model.mlp_resnet_blocks.1.o_proj.bias"
    save_file(weights | {some: torch.full_like(weights[some], float("nan"))}, tmp_path / "model.safetensors")
    with pytest.raises(FoveaError, match=f"expected finite numbers in {some} of VLA-Adapter's weights"):
        convert_vla_adapter(tmp_path / "model.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def release(weights: dict[str, torch.Tensor], states: VLMStates, proprio, latent, heads: int) -> torch.Tensor:
    """The released policy, both variants, written down plainly: what other sizes are compared with."""
    linear, norm = torch.nn.functional.linear, torch.nn.functional.layer_norm

    def apply(name: str, x: torch.Tensor, what=linear) -> torch.Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return linear(x, weight, bias) if what is linear else norm(x, x.shape[-1:], weight, bias)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def turn(x: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1]
        angle = torch.arange(x.shape[2])[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        angle = torch.cat([angle, angle], -1)
        other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * angle.cos() + other * angle.sin()

    token = apply("proprio_projector.fc2", torch.nn.functional.gelu(apply("proprio_projector.fc1", proprio)))
    head = "action_head.model."
    x = apply(f"{head}fc1", apply(f"{head}layer_norm1", latent, norm)).relu()
    for i, (vision, queries) in enumerate(zip(states.vision, states.queries, strict=True)):
        block = f"{head}mlp_resnet_blocks.{i}."
        pro = f"{block}k_task.weight" in weights
        names = ("self", "adapter", "task") if pro else ("proj",) * 3
        rotate = turn if pro else lambda y: y
        tokens = (x, torch.cat([queries, token[:, None]], 1), vision)
        q = rotate(split(apply(f"{block}q_proj", x)))
        scores = [
            q @ rotate(split(apply(f"{block}k_{n}", t))).transpose(-1, -2)
            for n, t in zip(names, tokens, strict=True)
        ]
        scores[2] = scores[2] * weights[f"{block}gating_factor"].tanh()
        weight = (torch.cat(scores, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        values = torch.cat([split(apply(f"{block}v_{n}", t)) for n, t in zip(names, tokens, strict=True)], 2)
        y = apply(f"{block}o_proj", (weight @ values).transpose(1, 2).flatten(2))
        x = apply(f"{block}ffn.1", apply(f"{block}ffn.0", x + y, norm)).relu()
    return apply(f"{head}fc2", apply(f"{head}layer_norm2", x, norm))


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.3


def other_weights(
    variant: str, blocks: int, width: int, action: int, proprio: int
) -> dict[str, torch.Tensor]:
    """Random public weights of other sizes than the goldens'."""
    torch.manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for key, value in public_weights(read(variant)).items():
        block = key.split("mlp_resnet_blocks.")[-1][0]
        if block.isdigit() and int(block) >= blocks:
            continue
        sizes = {64: width, 128: 2 * width, 448: action * width, 7: action, 8: proprio, 1: 1}
        weights[key] = draw(*(sizes[size] for size in value.shape))
    return weights


@pytest.mark.parametrize("variant", ["base", "pro"])
def test_other_sizes_go_through_the_front_door_and_are_checked(variant, tmp_path, capsys):
    blocks, width, heads, chunk, action, proprio = 2, 48, 4, 5, 10, 9
    weights = other_weights(variant, blocks, width, action, proprio)
    samples = {
        "in.vision_states": draw(3, blocks + 1, 20, width),
        "in.query_states": draw(3, blocks + 1, 6, width),
        "in.proprio": draw(3, proprio),
        "in.latent": draw(3, chunk, action * width),
    }
    for name, latent in (
        ("zero_latent", torch.zeros_like(samples["in.latent"])),
        ("latent", samples["in.latent"]),
    ):
        samples[f"out.actions_from_{name}"] = release(
            weights, states(samples), samples["in.proprio"], latent, heads
        )
    note = {"note": f"blocks={blocks}, dim={width}, heads={heads}"}
    file, out = tmp_path / "other.safetensors", tmp_path / "policy"
    save_file({**{f"weights.{key}": value for key, value in weights.items()}, **samples}, file, metadata=note)
    assert main(["convert", "vla-adapter", str(file), str(out)]) == 0
    assert "chunks of 5 x 10, proprioception of 9" in capsys.readouterr().out
    config = VLAAdapterPolicy.from_pretrained(out).config
    assert (config.variant, config.n_heads, config.vlm.layers) == (variant, heads, blocks)
    assert main(["convert", "vla-adapter", str(file), str(out), "--n_heads", "8"]) == 1
    assert "n_heads" in capsys.readouterr().out


def test_the_plain_release_of_these_tests_is_the_release():
    golden = read("pro")
    ours = release(public_weights(golden), states(golden), golden["in.proprio"], golden["in.latent"], heads=8)
    assert torch.allclose(ours, golden["out.actions_from_latent"], **TOLERANCE)


def test_a_vlm_may_come_along(tmp_path):
    save_file(other_weights("pro", 2, 32, 7, 8), tmp_path / "public.safetensors")
    vlm = VLMConfig.preset("toy_full", compat=True, trainable="nothing")
    policy = convert_vla_adapter(
        tmp_path / "public.safetensors", tmp_path / "policy", n_heads=4, chunk_size=3, vlm=vlm
    )
    pictures = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    batch = {f"observation.images.{name}": pictures for name in ("image", "image2")}
    batch |= {"observation.state": torch.zeros(2, 8), "task": ["pick up the milk"] * 2}
    again = VLAAdapterPolicy.from_pretrained(tmp_path / "policy")
    assert again.config.states_from == "vlm"
    assert again.config.center_crop == 0.9
    expected = policy.predict_action_chunk(batch)
    assert expected.shape == (2, 3, 7)
    assert torch.allclose(again.predict_action_chunk(batch), expected, atol=1e-6)
    wrong = VLMConfig.preset("toy_full", layers=3)
    with pytest.raises(FoveaError, match="a VLM of 2 layers and width 32"):
        convert_vla_adapter(tmp_path / "public.safetensors", tmp_path / "out", n_heads=4, vlm=wrong)
