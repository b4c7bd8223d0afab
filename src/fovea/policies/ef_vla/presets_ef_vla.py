"""What EF-VLA's presets are made of: LIBERO's cameras, state and action, and the sizes of known encoders."""

from typing import Any

from lerobot.configs import FeatureType, PolicyFeature

LIBERO_CAMERAS = ("observation.images.image", "observation.images.image2")
STATE, ACTION = "observation.state", "action"


def libero_inputs(size: int = 128) -> dict[str, PolicyFeature]:
    """LeRobot's LIBERO inputs: two cameras and an 8-number state."""
    cameras = {key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, size, size)) for key in LIBERO_CAMERAS}
    return {**cameras, STATE: PolicyFeature(type=FeatureType.STATE, shape=(8,))}


def libero_outputs() -> dict[str, PolicyFeature]:
    """LIBERO's 7-number action."""
    return {ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(7,))}


# the sizes of the encoders are known, so that a policy can be built from cached features without their weights
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"encoder": "tiny"},
    "b32": {"encoder": "ViT-B-32/openai", "encoder_width": 512, "encoder_grid": (7, 7), "image_size": 224},
    "b16": {"encoder": "ViT-B-16/openai", "encoder_width": 512, "encoder_grid": (14, 14), "image_size": 224},
    "l14": {"encoder": "ViT-L-14/openai", "encoder_width": 768, "encoder_grid": (16, 16), "image_size": 224},
}
PRESETS["clip"] = {"encoder": "ViT-L-14/openai"}
PRESETS |= {f"ef_vla_{name}": preset for name, preset in PRESETS.items()}
PRESETS["otter"] = {
    **PRESETS["l14"],
    "max_scale": None,
    "word_positions": 15,
    "value_positions": "sincos1d",
    "pooling_style": "otter",
    "dim_model": 768,
    "n_layers": 8,
    "mlp_ratio": 1.0,
    "time_positions": "rotary",
    "final_norm": False,
    "proprio_noise": 0.01,
    "state_layout": "as_is",
    "action_space": "se3_relative",
    "gripper_loss": "l1",
    "input_features": {
        **{key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, 224, 224)) for key in LIBERO_CAMERAS},
        STATE: PolicyFeature(type=FeatureType.STATE, shape=(10,)),
    },
    "output_features": {ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(10,))},
}
