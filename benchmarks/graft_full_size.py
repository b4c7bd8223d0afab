"""The full-size backbones: what a graft has to deliver there, and one optimiser step of a graft on SmolVLA-450M.

    python benchmarks/graft_full_size.py [--encoder efficientnet_lite0] [--meta_only]

Weights are random (nothing is downloaded), sizes and code are the released ones. The meta device needs no memory; the
step needs about 4 GB and, on one core, a minute.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from fovea.data import keys
from fovea.grafting.backbones import Inputs, SmolVLABackbone
from fovea.grafting.full_size import SMOLVLA, describe, meta_pi05, meta_smolvla
from fovea.grafting.native import SIZES, build_smolvla, smolvla_config, write_vlm
from fovea.grafting.tokens import create_encoder_of
from fovea.grafting.training import masked_mean, training_noise
from fovea.grafting.wrapper import Graft, Projector


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--meta_only", action="store_true")
    arguments = parser.parse_args()
    print(
        "| backbone | parameters | picture | tokens a camera | width | language model |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for backbone in (meta_smolvla(Path(folder)), meta_pi05()):
            found = describe(backbone)
            print(
                f"| {found['name']} | {found['parameters'] / 1e6:,.0f} M | {found['picture'][0]} px | "
                f"{found['tokens']} | {found['width']} | {found['language_dtype']} |"
            )
        if not arguments.meta_only:
            print(one_step(Path(folder), arguments.encoder))


def one_step(folder: Path, name: str) -> str:
    """A forward and backward pass of a batch of two through SmolVLA-450M, and one step of AdamW on the projector."""
    sizes = SIZES[SMOLVLA]
    config = smolvla_config(sizes, write_vlm(folder / "vlm", sizes, ["pick up the bowl"]))
    backbone = SmolVLABackbone(SMOLVLA, build_smolvla(config), None, None, identity="random")
    encoder = create_encoder_of(name)
    projector = Projector(encoder.grid, encoder.width, backbone.side, backbone.width, scale=0.02)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    batch, words = 2, 8
    pictures = torch.randint(0, 256, (batch, 3, 128, 128), generator=generator, dtype=torch.uint8)
    inputs = Inputs(
        torch.randint(0, 20, (batch, words), generator=generator),
        torch.ones(batch, words, dtype=torch.bool),
        torch.zeros(batch, sizes.padded),
        torch.randn(batch, sizes.chunk, sizes.padded, generator=generator),
        7,
        torch.zeros(batch, sizes.chunk, dtype=torch.bool),
    )
    began = time.monotonic()
    before = projector.linear.weight.detach().clone()
    with Graft(backbone.hook, projector, encoder):
        images = [backbone.shown(pictures)] * len(keys.IMAGES)
        noise, when = training_noise(0, 0, inputs.actions.shape, inputs.actions.device)
        loss = masked_mean(backbone.velocity_loss(inputs, images, noise, when), inputs.is_pad)
        loss.backward()
    optimizer.step()
    moved = (projector.linear.weight - before).abs().mean().item()
    touched = sum(p.grad is not None for p in backbone.policy.parameters())
    return (
        f"\n{name} on {SMOLVLA}: loss {loss.item():.4f}, projector moved by {moved:.1e} on average, {touched} weights "
        f"of the backbone have a gradient; a step of batch {batch} with its pictures: {time.monotonic() - began:.1f} s"
    )


if __name__ == "__main__":
    main()
