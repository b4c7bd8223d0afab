"""Small vision-language models that condition a policy (VLA-Adapter, FocusVLA)."""

from fovea.vlm.base import VLM
from fovea.vlm.config import VLMConfig
from fovea.vlm.create import create_vlm
from fovea.vlm.states import VLMStates

__all__ = ["VLM", "VLMConfig", "VLMStates", "create_vlm"]
