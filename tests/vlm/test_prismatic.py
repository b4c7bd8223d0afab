"""The full VLM at toy size: the sequence and states of VLA-Adapter, prompts and tokenizers, LoRA, the papers' count."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fovea.encoders import create_vision_encoder
from fovea.errors import FoveaError
from fovea.vlm import VLMConfig, create_vlm
from fovea.vlm.lora import merge_lora, trainable_parameters
from fovea.vlm.prompt import load_tokenizer, prompt_text

SENTENCES = ["pick up the milk", "Open it", "put the red bowl on the stove"]
PICTURES = torch.randint(
    0, 256, (3, 2, 3, 80, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def build(**changes):
    torch.manual_seed(0)
    return create_vlm(VLMConfig.preset("toy_full", **changes)).eval()


@pytest.fixture
def tokenizer(tmp_path):
    """A byte-level tokenizer with Qwen's special tokens, as a file."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tokenizer, tmp_path


@torch.no_grad()
def plain_states(vlm, features, sentence):
    """One sample, unpadded, through transformers' own causal model: (L, S, D) and the length of the prompt."""
    ids = torch.tensor([vlm.token_ids(sentence)])
    words = vlm.language_model.model.embed_tokens(ids)
    parts = [words[:, :1], vlm.projector(features), words[:, 1:], vlm.action_queries[None]]
    output = vlm.language_model.model(
        inputs_embeds=torch.cat(parts, 1), use_cache=False, output_hidden_states=True
    )
    return torch.cat(output.hidden_states[1:]), ids.shape[1]


@pytest.mark.parametrize("compat", [False, True])
@torch.no_grad()
def test_padded_batches_give_the_states_of_the_plain_model(compat):
    vlm = build(compat=compat)
    features = vlm.encode_images(PICTURES)
    assert features.shape == (3, 200, 128)
    states = vlm(features, SENTENCES)
    assert states.vision.shape == (2, 3, 8, 32)
    for row, sentence in enumerate(SENTENCES):
        hidden, prompt = plain_states(vlm, states.features[row : row + 1], sentence)
        start = 0 if compat else 1
        assert torch.allclose(states.vision[:, row], hidden[:, start : start + 8], atol=1e-5)
        first = 8 + prompt - compat  # VLA-Adapter counts from the last token of the prompt
        assert torch.allclose(states.queries[:, row], hidden[:, first : first + 4], atol=1e-5)


@torch.no_grad()
def test_patches_hear_the_instruction_in_prefix_mode_only_and_padding_never_matters():
    for attention, hears in (("prefix", True), ("causal", False)):
        vlm = build(attention=attention)
        features = torch.randn(3, 200, 128, generator=torch.Generator().manual_seed(0))
        together = vlm(features, SENTENCES)
        for row, sentence in enumerate(SENTENCES):
            alone = vlm(features[row : row + 1], [sentence])
            assert torch.allclose(alone.vision[:, 0], together.vision[:, row], atol=1e-5)
            assert torch.allclose(alone.queries[:, 0], together.queries[:, row], atol=1e-5)
        other = vlm(features, ["pick up the soup", *SENTENCES[1:]])
        assert torch.equal(other.vision[:, 0], together.vision[:, 0]) is not hears
        assert not torch.allclose(other.queries[:, 0], together.queries[:, 0], atol=1e-4)


@torch.no_grad()
def test_a_missing_camera_is_never_looked_at():
    vlm = build()
    features = torch.randn(1, 200, 128, generator=torch.Generator().manual_seed(0))
    there = torch.arange(200)[None] < 100
    spoilt = features.masked_fill(~there[..., None], 1e4)
    one, two = vlm(features, ["open it"], there), vlm(spoilt, ["open it"], there)
    assert torch.equal(one.queries, two.queries)
    single = build(cameras=1)  # the same seed, the same weights: one camera is two with one missing
    single.load_state_dict(vlm.state_dict())
    assert torch.allclose(single(features[:, :100], ["open it"]).queries, one.queries, atol=1e-5)


def test_the_papers_count_of_trainable_parameters():
    with torch.device("meta"):
        vlm = create_vlm(VLMConfig.full(), load_weights=False)
    assert trainable_parameters(vlm) == 103_636_992
    assert (vlm.layers, vlm.width, vlm.feature_width, vlm.patches, vlm.queries) == (24, 896, 2176, 256, 64)
    projector = vlm.projector
    assert projector.fc1.out_features == 8704
    frozen = sum(p.numel() for n, p in vlm.language_model.named_parameters() if "lora_" not in n)
    assert frozen == 494_032_768  # Qwen2.5-0.5B
    assert {parameter.device.type for parameter in vlm.parameters()} == {"meta"}


def test_gradients_reach_adapters_and_queries_and_nothing_else():
    vlm = build()
    states = vlm(vlm.encode_images(PICTURES), SENTENCES)
    (states.vision.square().mean() + states.queries.square().mean()).backward()
    trained = {name for name, parameter in vlm.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name == "action_queries" for name in trained)
    reached = {name for name, parameter in vlm.named_parameters() if parameter.grad is not None}
    last_blocks = ("lm_head", ".0.model.blocks.7", ".1.model.blocks.5")
    unread = {name for name in trained if any(part in name for part in last_blocks)}
    assert len(unread) == 2 * (1 + 4 + 4)
    assert reached == trained - unread  # heads and blocks behind the tap have adapters, but nobody reads them
    assert vlm.language_model.lm_head.base_layer.weight is vlm.language_model.model.embed_tokens.weight


@torch.no_grad()
def test_adapters_start_silent_and_merge_without_a_trace():
    plain, vlm = build(trainable="nothing"), build()
    features = torch.randn(3, 200, 128, generator=torch.Generator().manual_seed(0))
    before = plain(features, SENTENCES).queries
    assert torch.allclose(vlm(features, SENTENCES).queries, before, atol=1e-6)
    for name, parameter in vlm.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.1)
    adapted = vlm(features, SENTENCES).queries
    assert not torch.allclose(adapted, before, atol=1e-2)
    merge_lora(vlm)
    assert set(vlm.state_dict()) == set(plain.state_dict())
    assert torch.allclose(vlm(features, SENTENCES).queries, adapted, atol=1e-4)
    head, embedding = vlm.language_model.lm_head.weight, vlm.language_model.model.embed_tokens.weight
    assert torch.equal(embedding, plain.language_model.model.embed_tokens.weight)  # it had no adapter
    assert not torch.equal(head, embedding)


def test_the_prompt_is_qwen_s_chat_template():
    assert prompt_text(" Pick up the Milk ") == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat action should the robot take to pick up the milk?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    with pytest.raises(FoveaError, match="at least one word"):
        prompt_text("  ")
    with pytest.raises(FoveaError, match="at most 100 tokens"):
        build(max_words=100).token_ids("pick up the milk")


def test_a_tokenizer_from_a_file_or_its_folder(tokenizer):
    known, folder = tokenizer
    text = prompt_text("pick up the milk")
    for source in (folder, folder / "tokenizer.json"):
        ids = load_tokenizer(str(source), 300)(text)
        assert ids == known.encode(text).ids
        assert ids[0] == known.token_to_id("<|im_start|>")
    vlm = build(tokenizer=str(folder))
    assert vlm.token_ids("Pick up the milk") == known.encode(text).ids


def test_tokenizers_that_do_not_fit_are_refused(tokenizer, monkeypatch):
    folder = tokenizer[1]
    with pytest.raises(FoveaError, match="at most 200 tokens"):
        load_tokenizer(str(folder), 200)
    (folder / "tokenizer.json").write_text(json.dumps({"vocab": {}}))
    with pytest.raises(FoveaError, match="Hugging Face tokenizer"):
        load_tokenizer(str(folder), 300)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FoveaError, match=r"expected tokenizer\.json in"):
        load_tokenizer(str(folder), 300)
    with pytest.raises(FoveaError, match=r"found none at \./nowhere"):
        load_tokenizer("./nowhere", 300)
    with pytest.raises(FoveaError, match="256 or more"):
        load_tokenizer("bytes", 100)
    monkeypatch.setattr("fovea.vlm.prompt.fetch", _offline)
    with pytest.raises(FoveaError, match=r"tokenizer\.json of Qwen/Qwen2\.5-0\.5B; .*vlm\.tokenizer="):
        load_tokenizer("Qwen/Qwen2.5-0.5B", 300)


def _offline(what, repository, file, advice):
    raise FoveaError(f"{what}: {file} of {repository}; {advice}")


def test_the_language_model_s_own_file_is_read(tmp_path):
    source = build(trainable="nothing")
    state = {key: value.clone() for key, value in source.language_model.state_dict().items()}
    state.pop("lm_head.weight")  # saved once: it is the embedding
    save_file(state, tmp_path / "model.safetensors")
    encoder = create_vision_encoder("timm/test_vit2+timm/test_vit", random_weights=True)
    changes = {"weights": "pretrained", "language_model": str(tmp_path)}
    with pytest.raises(FoveaError, match=r"expected vlm\.checkpoint, got none: a trained projector"):
        create_vlm(VLMConfig.preset("toy_full", **changes), encoder=encoder)
    changes["trainable"] = "all"
    vlm = create_vlm(VLMConfig.preset("toy_full", **changes), encoder=encoder)
    name = "model.layers.1.mlp.up_proj"
    read = vlm.language_model.get_submodule(name).weight
    assert torch.equal(read, source.language_model.get_submodule(name).weight)
    assert all(parameter.requires_grad for parameter in vlm.parameters())
    state.pop("model.norm.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(FoveaError, match=r"1 missing: language_model\.model\.norm\.weight"):
        create_vlm(VLMConfig.preset("toy_full", **changes), encoder=encoder)
