"""LoRA (arXiv 2106.09685) through peft, with the settings of VLA-Adapter and FocusVLA.

Non-obvious: the 103,636,992 trainable parameters of the full VLM (the papers' 103.6 M) count adapters on every linear
layer, 13.2 M of them on layers whose output no policy reads: the language model's head, SigLIP's attention pooling and
the last block of each vision tower. They get no gradient. All are built, so that counts and public adapters agree.
"""

import warnings

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn


def add_lora(model: nn.Module, rank: int, alpha: int, dropout: float = 0.0) -> int:
    """Freeze a model and put an adapter on every linear layer of it, in place; an output head is no exception.

    Weights A start as Gaussian noise and B at zero (as VLA-Adapter does), so that the model's output does not change.

    Args:
        model: any module.
        rank: r.
        alpha: the adapter's output is scaled by alpha / r.
        dropout: on the adapter's input.

    Returns:
        The number of adapted layers.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    model.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=names,
        init_lora_weights="gaussian",
    )
    with warnings.catch_warnings():
        # peft warns that Qwen's head and embedding are one tensor; `merge_lora` parts them before it merges.
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*", category=UserWarning)
        inject_adapter_in_model(config, model)
    return len(names)


@torch.no_grad()
def merge_lora(model: nn.Module) -> int:
    """Add every adapter to the weight that it adapts and remove it, in place: same output, plain layers.

    Returns:
        The number of merged layers.
    """
    holders: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    adapted = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLinear)]
    for name, layer in adapted:
        base = layer.get_base_layer()
        assert isinstance(base, nn.Linear)  # add_lora adapts nothing else
        if holders[id(base.weight)] > 1:  # tied to another layer, which has no adapter and must not change
            base.weight = nn.Parameter(base.weight.detach().clone(), base.weight.requires_grad)
        layer.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, base)
    return len(adapted)


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers of a model are trained; a tensor that two layers share counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
