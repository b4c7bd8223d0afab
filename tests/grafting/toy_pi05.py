"""A pi0.5 of a few thousand numbers, built by LeRobot's own code with smaller sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_graft import SENTENCES, SIZES, quiet

from fovea.data import keys
from fovea.grafting.native import VLM, write_vlm

WIDTH, EXPERT, CHUNK = 32, 24, 4


@contextmanager
def small_sizes(tokenizer: Path) -> Iterator[None]:
    """LeRobot builds small towers inside, and reads words with a tokenizer of ours."""
    from lerobot.policies.pi05 import modeling_pi05, processor_pi05
    from lerobot.processor import TokenizerProcessorStep
    from transformers import PaliGemmaConfig, SiglipVisionConfig
    from transformers.models.paligemma import modeling_paligemma

    class SmallConnector(torch.nn.Module):
        """Upstream's own ends at 2048 numbers, whatever the language model's width."""

        def __init__(self, config: PaliGemmaConfig) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(config.vision_config.hidden_size, WIDTH)

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return self.linear(patches)

    def paligemma() -> PaliGemmaConfig:
        config = PaliGemmaConfig()
        config.vision_config = SiglipVisionConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=32
        )
        return config

    def gemma(variant: str) -> Any:
        width = WIDTH if variant == "gemma_2b" else EXPERT
        return modeling_pi05.GemmaConfig(width, 2, 48, 8, 1, 8)

    def words(tokenizer_name: str, **options: Any) -> Any:
        return TokenizerProcessorStep(tokenizer_name=str(tokenizer), **options)

    mapping = {"paligemma": paligemma, "gemma": modeling_pi05.CONFIG_MAPPING["gemma"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_pi05, "CONFIG_MAPPING", mapping)
        patch.setattr(modeling_paligemma, "PaliGemmaMultiModalProjector", SmallConnector)
        patch.setattr(modeling_pi05, "get_gemma_config", gemma)
        patch.setattr(processor_pi05, "TokenizerProcessorStep", words)
        yield


def make_pi05(folder: Path, stats: dict[str, Any]) -> Path:
    """A checkpoint of random weights; `small_sizes` must be in force."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.pi05.configuration_pi05 import PI05Config
    from lerobot.policies.pi05.modeling_pi05 import PI05Policy

    write_vlm(folder / VLM, SIZES, SENTENCES)
    config = PI05Config(
        device="cpu",
        image_resolution=(32, 32),
        chunk_size=CHUNK,
        n_action_steps=2,
        max_action_dim=8,
        tokenizer_max_length=24,
        push_to_hub=False,
    )
    config.input_features = {
        **{key: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for key in keys.IMAGES},
        keys.STATE: PolicyFeature(FeatureType.STATE, (8,)),
    }
    config.output_features = {keys.ACTION: PolicyFeature(FeatureType.ACTION, (7,))}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        policy = PI05Policy(config)
    target = folder / "pretrained_model"
    policy.save_pretrained(target)
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(target)
    return folder
