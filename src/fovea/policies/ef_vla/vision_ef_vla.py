"""Vision that is trained with the policy: the ablations "w/o CLIP vision" and "finetune CLIP" (EF-VLA, section 4).

Shape letters: B batch, N patches, D joint width, S side in pixels.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fovea.encoders import Encoder
from fovea.encoders.base import check_images
from fovea.errors import FoveaError
from fovea.nn.onednn import use_onednn
from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig


class ScratchVision(nn.Module):
    """A vision transformer from scratch in place of the encoder's picture tower: ViT-Ti/16 with half of its layers.

    A linear map takes its patches to the joint space, where they are normalised like the encoder's, so that fusion
    is the same. There is no class token: nothing would read it.

    Args:
        config: with `image_size`, `encoder_grid` and `encoder_width` set.
    """

    def __init__(self, config: EFVLAConfig) -> None:
        super().__init__()
        if config.image_size is None or config.encoder_width is None:
            raise FoveaError("expected image_size and encoder_width with vision=scratch, got None; set them")
        self.image_size = config.image_size
        self.trunk = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.scratch_patch_size,
            embed_dim=config.scratch_width,
            depth=config.scratch_layers,
            num_heads=config.scratch_heads,
            num_classes=0,
            class_token=False,
            global_pool="",
        )
        self.project = nn.Linear(config.scratch_width, config.encoder_width)
        use_onednn(self)

    def forward(self, pictures: Tensor) -> Tensor:
        """Upright RGB uint8 pictures (B, 3, h, w) -> patches (B, N, D), L2-normalised; pixels are scaled to [-1, 1]."""
        check_images(pictures)
        pixels = pictures.float() / 127.5 - 1
        size = (self.image_size, self.image_size)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        return F.normalize(self.project(self.trunk.forward_features(pixels)), dim=-1)


def unfreeze(encoder: Encoder) -> Encoder:
    """Let an encoder be trained: every parameter that its patches and words depend on gets gradients.

    The others (the encoder's own temperature, the MLP behind X_attn) stay frozen: a process that waits for their
    gradients would wait for ever.
    """
    encoder.requires_grad_(True)
    parameters = list(encoder.parameters())
    size, device = encoder.image_size, parameters[0].device
    with torch.enable_grad():
        pictures = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
        patches, words = encoder.encode_image(pictures), encoder.encode_text(["pick up"])
        total = patches.values.square().sum() + words.values.square().sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    return encoder
