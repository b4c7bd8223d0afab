"""The full VLM of VLA-Adapter and FocusVLA: fused vision encoders, a projector, Qwen2.5 and action queries.

Sequence: the first token of the prompt, the patches of all cameras, the rest of the prompt, the action queries. The
policy reads entries 1..L of Hugging Face's hidden states; the last one has passed the final norm, the others have not.

Shape letters: B batch, C cameras, N patches of a camera, M = C * N, P prompt tokens, Q queries, D width, R feature
width, S tokens of the sequence.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from fovea.encoders import VisionEncoder
from fovea.errors import FoveaError
from fovea.vlm.base import VLM, query_parameter
from fovea.vlm.config import VLMConfig
from fovea.vlm.projector import FusedProjector
from fovea.vlm.prompt import Tokenize, load_tokenizer, pad_prompts, prompt_text
from fovea.vlm.sequence import Sequence

REMEMBERED_PROMPTS = 4096


class PrismaticVLM(VLM):
    """The preset `full`; see the module's docstring. All weights are part of it, the vision encoder's too.

    The tokenizer is read at the first call with instructions, so that building and counting need no file.

    Args:
        config: of kind prismatic; missing facts of the encoder are filled in from the encoder.
        encoder: the vision encoder, of any registry name.

    Raises:
        FoveaError: the encoder has another grid or width than the configuration says.
    """

    head = 1

    def __init__(self, config: VLMConfig, encoder: VisionEncoder) -> None:
        super().__init__(config)
        facts = (encoder.grid, encoder.width)
        if (config.encoder_grid or facts[0], config.feature_width or facts[1]) != facts:
            raise FoveaError(
                f"expected an encoder of grid {config.encoder_grid} and width {config.feature_width}, got "
                f"{encoder.name} with {facts}; leave encoder_grid and feature_width unset"
            )
        config.encoder_grid, config.feature_width = facts
        self._set_sizes()
        self.vision_encoder = encoder
        self.projector = FusedProjector(self.feature_width, config.width, config.projector_hidden)
        self.language_model = Qwen2ForCausalLM(qwen_config(config))
        self.action_queries = query_parameter(self.queries, config.width)
        self.register_load_state_dict_pre_hook(_head_follows_embedding)
        self._tokenize: Tokenize | None = None
        self._prompts: dict[str, list[int]] = {}

    @property
    def vision(self) -> VisionEncoder:
        """The vision encoder, a part of this model."""
        return self.vision_encoder

    def prompt(self, instructions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Token embeddings of the prompts (B, P, D), padded on the right, and their mask (B, P)."""
        ids, mask = pad_prompts([self.token_ids(sentence) for sentence in instructions], device)
        return self.language_model.get_input_embeddings()(ids), mask

    def token_ids(self, instruction: str) -> list[int]:
        """Tokens of the whole prompt of one instruction.

        Raises:
            FoveaError: the tokenizer's file is missing, or the prompt is longer than `max_words` tokens.
        """
        if instruction not in self._prompts:
            if self._tokenize is None:
                config = self.config
                self._tokenize = load_tokenizer(config.tokenizer or config.language_model, config.vocabulary)
            ids = self._tokenize(prompt_text(instruction))
            if len(ids) > self.config.max_words:
                raise FoveaError(
                    f"expected a prompt of at most {self.config.max_words} tokens (vlm.max_words), "
                    f"got {len(ids)} for {instruction[:80]!r}"
                )
            if len(self._prompts) >= REMEMBERED_PROMPTS:
                self._prompts.clear()
            self._prompts[instruction] = ids
        return self._prompts[instruction]

    def project(self, features: Tensor, instructions: list[str], mask: Tensor | None) -> Tensor:
        """(B, M, R) -> (B, M, D); the instructions play no part."""
        return self.projector(features)

    def run(self, sequence: Sequence) -> list[Tensor]:
        """Hidden states 1..L; 0, the embeddings, is left out."""
        output = self.language_model.model(
            inputs_embeds=sequence.embeddings,
            attention_mask={"full_attention": sequence.attention_mask(self.config.attention)},
            position_ids=sequence.positions,
            use_cache=False,
            output_hidden_states=True,
        )
        return list(output.hidden_states[1:])


def _head_follows_embedding(vlm: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Of two tensors that this model holds as one, the embedding counts: a checkpoint may have parted them (merged
    adapters do), and the head, which would be copied last, is read by nobody here.
    """
    embedding, head = (f"language_model.{name}.weight" for name in ("model.embed_tokens", "lm_head"))
    own = vlm.state_dict()
    shared = head in own and embedding in own and own[head].data_ptr() == own[embedding].data_ptr()
    if shared and prefix + embedding in state:
        state[prefix + head] = state[prefix + embedding]


def qwen_config(config: VLMConfig) -> Qwen2Config:
    """Qwen2.5's configuration with our sizes; the head shares the embedding's weights, as in the 0.5 B model."""
    return Qwen2Config(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
