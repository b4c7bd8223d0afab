"""SigLIP, EVA and CoCa towers of open_clip, with random weights: taps, words, and what has no taps."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import AttentionalPooler
from timm.layers import AttentionPoolLatent
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from fovea.encoders.clip import ClipEncoder
from fovea.encoders.clip_text import named_tokenizer
from fovea.encoders.clip_vision import pool_alone
from fovea.errors import FoveaError

TEXT = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}


def siglip(trunk: torch.nn.Module) -> open_clip.CustomTextCLIP:
    """open_clip's SigLIP around a small trunk (its own are named in timm, and large)."""
    model = open_clip.CustomTextCLIP(32, VISION, SIGLIP_TEXT)
    tower = TimmModel.__new__(TimmModel)
    torch.nn.Module.__init__(tower)
    tower.trunk, tower.head, tower.image_size = trunk, torch.nn.Sequential(), (32, 32)
    model.visual = tower
    return model.eval()


def small_vit(**options) -> VisionTransformer:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**{**sizes, "class_token": False, "global_pool": "map", **options})


def tokenize(sentences: list[str]) -> torch.Tensor:
    rows = torch.zeros(len(sentences), 16, dtype=torch.long)
    for row, sentence in zip(rows, sentences, strict=True):
        count = len(sentence.split())
        row[: count + 2] = torch.tensor([62, *range(1, count + 1), 63])
    return rows


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@torch.no_grad()
def test_siglip_patches_go_through_its_attention_pooling_one_by_one():
    model = siglip(small_vit())
    trunk, pixels = model.visual.trunk, torch.randn(2, 3, 32, 32)
    assert isinstance(trunk.attn_pool, AttentionPoolLatent)
    out = ClipEncoder(model, name="toy", tap="out", tokenizer=tokenize).patches(pixels)
    tokens = trunk.forward_features(pixels)
    alone = trunk.attn_pool(tokens.flatten(0, 1)[:, None]).view(2, 16, 32)
    assert torch.allclose(out, F.normalize(alone, dim=-1), atol=1e-5)

    caught = []
    hook = trunk.blocks[-1].attn.register_forward_hook(lambda module, args, result: caught.append(result))
    trunk.forward_features(pixels)
    hook.remove()
    attention = trunk.attn_pool(trunk.norm(caught[0]).flatten(0, 1)[:, None]).view(2, 16, 32)
    read = {
        tap: ClipEncoder(model, name="toy", tap=tap, tokenizer=tokenize) for tap in ("attn_qk", "attn_qq")
    }
    assert torch.allclose(read["attn_qk"].patches(pixels), F.normalize(attention, dim=-1), atol=1e-5)
    assert not torch.allclose(read["attn_qq"].patches(pixels), read["attn_qk"].patches(pixels), atol=1e-4)
    assert read["attn_qk"].grid == (4, 4)
    assert read["attn_qk"].width == 32
    assert len({encoder.identity for encoder in read.values()}) == 2


@torch.no_grad()
def test_query_query_attention_of_a_siglip_block_compares_queries_with_queries():
    model = siglip(small_vit())
    attention = model.visual.trunk.blocks[-1].attn
    pixels = torch.randn(1, 3, 32, 32)
    expected = ClipEncoder(model, name="toy", tap="attn_qq", tokenizer=tokenize).patches(pixels)
    weight, bias = attention.qkv.weight.data, attention.qkv.bias.data
    weight[32:64], bias[32:64] = weight[:32], bias[:32]  # keys become queries
    same = ClipEncoder(model, name="toy", tap="attn_qk", tokenizer=tokenize).patches(pixels)
    assert torch.allclose(same, expected, atol=1e-5)


@torch.no_grad()
def test_siglip_reads_every_word_and_masks_the_rest():
    model = siglip(small_vit())
    encoder = ClipEncoder(model, name="toy", tokenizer=tokenize)
    sentences = ["pick up the milk", "open it"]
    words = encoder.encode_text(sentences)
    assert words.values.shape == (2, 16, 32)
    assert words.mask.sum(1).tolist() == [4, 2]
    assert not words.mask[:, 0].any()  # the start token
    whole = model.encode_text(tokenize(sentences), normalize=True)
    assert torch.allclose(encoder.embed_text(sentences), whole, atol=1e-6)
    assert torch.allclose(words.values[:, -1], whole, atol=1e-5)  # SigLIP reads the last position


@torch.no_grad()
def test_towers_with_a_class_token_drop_it():
    trunk = small_vit(class_token=True, global_pool="token", num_classes=32)
    model, pixels = siglip(trunk), torch.randn(1, 3, 32, 32)
    patches = ClipEncoder(model, name="toy", tap="out", tokenizer=tokenize).patches(pixels)
    assert patches.shape == (1, 16, 32)
    expected = trunk.head(trunk.forward_features(pixels)[:, 1:])
    assert torch.allclose(patches, F.normalize(expected, dim=-1), atol=1e-5)


@torch.no_grad()
def test_eva_towers_have_two_taps():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 32}
    model = siglip(Eva(**sizes, use_rot_pos_emb=True, global_pool="token"))
    trunk, pixels = model.visual.trunk, torch.randn(1, 3, 32, 32)
    patches = ClipEncoder(model, name="toy", tap="out", tokenizer=tokenize).patches(pixels)
    expected = trunk.head(trunk.fc_norm(trunk.forward_features(pixels)[:, 1:]))
    assert torch.allclose(patches, F.normalize(expected, dim=-1), atol=1e-5)
    assert ClipEncoder(model, name="toy", tokenizer=tokenize).patches(pixels).shape == (1, 16, 32)
    with pytest.raises(FoveaError, match="attn_qk, out, got 'attn_qq'"):
        ClipEncoder(model, name="toy", tap="attn_qq", tokenizer=tokenize)


@torch.no_grad()
def test_coca_words_and_patches():
    vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2}
    text = {**TEXT, "embed_cls": True}
    multimodal = {**TEXT, "context_length": 16}
    model = open_clip.CoCa(32, multimodal, text, vision).eval()
    encoder = ClipEncoder(model, name="coca", tokenizer=tokenize)
    assert encoder.patches(torch.randn(1, 3, 32, 32)).shape == (1, 16, 32)
    words = encoder.encode_text(["open the drawer"])
    assert words.values.shape == (1, 16, 32)
    assert words.mask.sum() == 3
    pool = model.visual.attn_pool
    assert isinstance(pool, AttentionalPooler)
    x = torch.randn(3, 1, 64)
    assert torch.allclose(pool(x), pool_alone(pool, x).expand_as(pool(x)), atol=1e-5)


@torch.no_grad()
def test_text_towers_of_transformers_read_every_word(tmp_path):
    from transformers import RobertaConfig

    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    RobertaConfig(vocab_size=64, max_position_embeddings=40, pad_token_id=1, **sizes).save_pretrained(
        tmp_path
    )
    text = {"hf_model_name": str(tmp_path), "hf_model_pretrained": False, "hf_pooler_type": "mean_pooler"}
    model = open_clip.CustomTextCLIP(32, VISION, {**text, "hf_proj_type": "mlp"}).eval()
    encoder = ClipEncoder(model, name="toy", tokenizer=tokenize)
    assert encoder.width == 32
    ids = torch.tensor([[62, 5, 6, 63, 1, 1]])
    values = encoder.encode_ids(ids)
    assert values.shape == (1, 6, 32)
    assert torch.allclose(
        values[:, :4], encoder.encode_ids(ids[:, :4]), atol=1e-5
    )  # padding is not attended to
    assert encoder.embed_text(["open it"]).shape == (1, 32)


def test_a_tower_without_patches_is_refused():
    vision = {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8, "head_width": 8}
    with pytest.raises(FoveaError, match="ModifiedResNet; take one such as"):
        ClipEncoder(open_clip.CLIP(32, vision, TEXT), name="RN")


def test_a_tokenizer_that_is_not_there_names_its_files(tmp_path, monkeypatch):
    from fovea.encoders import clip_text

    def offline(source, **options):
        raise OSError("no network")

    monkeypatch.setattr(clip_text, "HFTokenizer", offline)
    tokenizer = named_tokenizer({"hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}, tmp_path)
    with pytest.raises(
        FoveaError, match=r"tokenizer\.json and tokenizer_config\.json of https://huggingface\.co/timm"
    ):
        tokenizer(["pick up the milk"])


def test_a_tokenizer_beside_the_weights_is_read(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "pick": 3, "up": 4, "milk": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path)
    text = {
        "hf_tokenizer_name": "nobody/nothing",
        "context_length": 6,
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    ours = named_tokenizer(text, tmp_path)
    ids = ours(["Pick up, milk!"])
    assert ids.tolist() == [[3, 4, 5, 1, 1, 1]]
    assert ours.words(ids).tolist() == [[True, True, True, False, False, False]]
