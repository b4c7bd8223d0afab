"""The policies that `fovea bench ef-vla` compares, of the same sizes, each with a random CLIP of its own."""

from pathlib import Path

import open_clip
import torch

from fovea.data.compiled import compiled_encoder
from fovea.encoders.clip import ClipEncoder
from fovea.errors import FoveaError
from fovea.pipelines import bench_ef_vla_measure as measure
from fovea.pipelines.bench_ef_vla import BenchEFVLAConfig
from fovea.pipelines.bench_ef_vla_reference import ReferenceEFVLA, ReferenceSizes
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig, libero_inputs, libero_outputs
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy

CALIBRATION = 32  # pictures
HORIZON = 12
COPIES = {"fp32": "openvino_fp32", "bf16": "openvino_bf16", "int8": "int8"}


def build(config: BenchEFVLAConfig) -> tuple[EFVLAPolicy, ReferenceEFVLA]:
    """Our policy and the published one, of the same sizes, each with a CLIP of its own (random, alike)."""
    about = open_clip.get_model_config(config.clip)
    if about is None or about.get("custom_text") or "timm_model_name" in about["vision_cfg"]:
        raise FoveaError(
            f"clip: expected an open_clip model with a plain vision transformer such as ViT-B-32, got {config.clip!r}"
        )
    clips = []
    for _ in range(2):
        torch.manual_seed(0)
        clips.append(open_clip.CLIP(**about))
    encoder = ClipEncoder(clips[0], name=config.clip).freeze()
    side = encoder.image_size
    torch.manual_seed(0)
    policy = EFVLAPolicy(
        EFVLAConfig(
            input_features=libero_inputs(side),
            output_features=libero_outputs(),
            encoder=config.clip,
            temperature=0.07,
            n_obs_steps=config.context,
            chunk_size=HORIZON,
            dim_model=config.dim_model,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            device="cpu",
        ),
        encoder=encoder,
    )
    sizes = ReferenceSizes(
        context=config.context,
        horizon=HORIZON,
        width=config.dim_model,
        layers=config.n_layers,
        heads=config.n_heads,
    )
    return policy, ReferenceEFVLA(clips[1], sizes)


def token_rows(reference: ReferenceEFVLA) -> int:
    """Rows of a product of the picture tower in a control step: tokens of all cameras."""
    rows, columns = reference.clip.visual.grid_size
    return reference.sizes.cameras * (rows * columns + 1)


def compiled(policy: EFVLAPolicy, cache: Path, side: int) -> dict[str, EFVLAPolicy]:
    """The same policy with its picture tower on OpenVINO, in fp32, bfloat16 and int8."""
    seen = torch.from_numpy(measure.pictures(CALIBRATION, side, seed=7)).permute(0, 3, 1, 2).contiguous()
    copies = {}
    for name in ("fp32", "bf16", "int8"):
        backend = f"openvino-{name}"
        encoder = compiled_encoder(policy.encoder, backend, pictures=seen, root=cache)
        copies[COPIES[name]] = EFVLAPolicy(policy.config, encoder=encoder).eval()
        copies[COPIES[name]].load_state_dict(policy.state_dict())
    return copies
