"""`fovea convert vla-adapter CKPT OUT`: VLA-Adapter's public weights as a policy of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fovea.cli.converting import check_counts, report_deviations


@dataclass(kw_only=True)
class Config:
    """The checkpoint, and what its tensors cannot tell; metadata of the file is read first.

    Attributes:
        ckpt: a file with `action_head.model.*` and `proprio_projector.*`, or a checkpoint folder of the release.
        out: folder of the policy.
        chunk_size: actions of a chunk (8).
        n_heads: attention heads of the policy (8).
        statistics: data set of dataset_statistics.json whose scaling is used, where there are several.
        vlm: folder or file with the weights of its VLM, action queries among them (model.safetensors of the release);
            without it the policy takes the states of a VLM from its batches.
        check: file with inputs (in.*) and the release's outputs (out.*) to compare with; CKPT where it has them.
    """

    ckpt: Path
    out: Path
    chunk_size: int | None = None
    n_heads: int | None = None
    statistics: str | None = None
    vlm: Path | None = None
    check: Path | None = None

    POSITIONAL: ClassVar[tuple[str, ...]] = ("ckpt", "out")

    def __post_init__(self) -> None:
        check_counts(self, ("chunk_size", "n_heads"))


def run(config: Config) -> int:
    """Convert, say what came out, and compare with the release where there is something to compare with."""
    from fovea.policies.vla_adapter.convert_vla_adapter import convert_vla_adapter
    from fovea.policies.vla_adapter.parity_vla_adapter import TOLERANCE, vla_adapter_deviations
    from fovea.policies.vla_adapter.public_files import STATISTICS, read_public
    from fovea.vlm.config import VLMConfig

    vlm = None if config.vlm is None else VLMConfig.full(checkpoint=str(config.vlm), compat=True)
    compared = read_public(config.ckpt if config.check is None else config.check)
    policy = convert_vla_adapter(
        config.ckpt,
        config.out,
        chunk_size=config.chunk_size or compared.chunk_size,
        n_heads=config.n_heads or compared.n_heads,
        statistics=config.statistics,
        vlm=vlm,
    )
    sizes = policy.config
    print(
        f"{sizes.title}: {sizes.vlm.layers} blocks of width {sizes.dim_model}, {sizes.n_heads} heads, chunks of "
        f"{sizes.chunk_size} x {sizes.action_size}, proprioception of {sizes.proprio_size}; "
        f"{'with its VLM' if vlm else 'states of a VLM come from batches'}"
    )
    scaled = (config.ckpt if config.ckpt.is_dir() else config.ckpt.parent) / STATISTICS
    if not scaled.is_file():
        print(f"No {STATISTICS} there: states and actions are taken to be scaled to [-1, 1] already")
    print(f"Policy: {config.out}")
    if not compared.samples and config.check is None:
        return 0
    return report_deviations(
        vla_adapter_deviations(policy, compared.samples),
        whose="release",
        tolerance=TOLERANCE,
        suspect="does --n_heads fit the checkpoint?",
    )
