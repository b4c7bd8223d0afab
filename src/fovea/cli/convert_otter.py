"""`fovea convert otter CKPT OUT`: OTTER's public checkpoint as a policy of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from fovea.cli.converting import check_counts, report_deviations
from fovea.errors import FoveaError

if TYPE_CHECKING:
    from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
    from fovea.policies.ef_vla.otter_file import OtterFile


@dataclass(kw_only=True)
class Config:
    """The checkpoint, and what its tensors cannot tell; metadata of the file is read first.

    Attributes:
        ckpt: OTTER's weights, a safetensors file or a state dict that torch saved.
        out: folder of the policy.
        encoder: name of the CLIP to use; the file's own when not given, or ViT-L-14/openai if it has none.
        n_obs_steps: frames of context, OTTER's seq_length (12).
        action_size: numbers of an action, OTTER's action_dim (10).
        chunk_size: actions of a chunk, OTTER's action_horizon (from the tensors and action_size).
        n_heads: heads of the transformer (from the tensors).
        pooling_heads: heads of the poolings (8).
        word_positions: text positions that are used, OTTER's first_k_tokens (15).
        pool_true_text: keep start, end and padding out of the poolings, as OTTER's switch of that name.
        action_space: se3_relative for poses (10 numbers), env for actions as they are.
        state_layout: as_is for states as the checkpoint has them; axis_angle for states as LIBERO has them (8
            numbers, and 7 an action), which the policy then turns into its poses: what `fovea eval` plays.
        cameras: names of the cameras; OTTER sorts them.
        vision_heads: heads of the CLIP's picture tower (width / 64).
        text_heads: heads of the CLIP's text tower (width / 64).
        activation: of the CLIP, quick_gelu as OpenAI's or gelu.
        prefix: of the weights' names, where the file holds several sets (a policy and its moving average): `ema.`, or
            `none` for the set without one.
        check: file with inputs (in.*) and the reference's outputs (out.*) to compare with; CKPT where it has them.
    """

    ckpt: Path
    out: Path
    encoder: str | None = None
    n_obs_steps: int | None = None
    action_size: int | None = None
    chunk_size: int | None = None
    n_heads: int | None = None
    pooling_heads: int | None = None
    word_positions: int | None = None
    pool_true_text: bool | None = None
    action_space: Literal["se3_relative", "env"] | None = None
    state_layout: Literal["as_is", "axis_angle"] | None = None
    cameras: list[str] | None = None
    vision_heads: int | None = None
    text_heads: int | None = None
    activation: Literal["quick_gelu", "gelu"] | None = None
    prefix: str | None = None
    check: Path | None = None

    POSITIONAL: ClassVar[tuple[str, ...]] = ("ckpt", "out")

    def __post_init__(self) -> None:
        check_counts(
            self,
            (
                "n_obs_steps",
                "action_size",
                "chunk_size",
                "n_heads",
                "pooling_heads",
                "word_positions",
                "vision_heads",
                "text_heads",
            ),
        )


def run(config: Config) -> int:
    """Convert, say what came out, and compare with the reference where there is something to compare with."""
    from fovea.encoders.files import refuse_overwriting
    from fovea.policies.ef_vla.convert_otter import convert_otter_file
    from fovea.policies.ef_vla.otter_file import read_otter
    from fovea.policies.ef_vla.otter_parity import TOLERANCE, otter_deviations

    refuse_overwriting(config.ckpt, config.out)
    file = read_otter(config.ckpt, config.prefix)
    policy = convert_otter_file(
        file,
        config.out,
        encoder=config.encoder,
        n_obs_steps=config.n_obs_steps,
        action_size=config.action_size,
        chunk_size=config.chunk_size,
        n_heads=config.n_heads,
        pooling_heads=config.pooling_heads,
        word_positions=config.word_positions,
        pool_true_text=config.pool_true_text,
        action_space=config.action_space,
        state_layout=config.state_layout,
        cameras=config.cameras,
        clip={
            "vision_heads": config.vision_heads,
            "transformer_heads": config.text_heads,
            "activation": config.activation,
        },
    )
    sizes = policy.config
    print(
        f"{sum(p.numel() for p in policy.model.parameters()):,} parameters: {len(sizes.camera_keys)} cameras, context "
        f"{sizes.n_obs_steps}, chunks of {sizes.chunk_size} x {sizes.action_size}, width {sizes.dim_model}, "
        f"{sizes.n_layers} layers, {sizes.n_heads} heads; words: first {sizes.word_positions} positions"
        f"{', poolings see words only' if sizes.pool_true_text else ''}; encoder {sizes.encoder}"
    )
    print(f"Policy: {config.out}")
    for note in _assumed(config, file, sizes):
        print(f"Note: {note}")
    samples = file.samples if config.check is None else _samples(config.check)
    if not samples and config.check is None:
        return 0
    return report_deviations(
        otter_deviations(policy, samples),
        whose="reference",
        tolerance=TOLERANCE,
        suspect="do the heads and the context fit the checkpoint?",
    )


def _assumed(config: Config, file: "OtterFile", sizes: "EFVLAConfig") -> list[str]:
    """What neither the file nor the flags say, where taking OTTER's own may be wrong."""
    from fovea.policies.ef_vla.presets_ef_vla import PRESETS

    notes = []
    told = (config.action_size, config.chunk_size, file.facts.action_size, file.facts.chunk_size)
    if told == (None,) * len(told) and sizes.action_space == "env":
        notes.append(
            f"chunks of {sizes.chunk_size} x {sizes.action_size} are a guess (OTTER's actions have {sizes.action_size} "
            f"numbers, this state {sizes.proprio_size}); if they are others, give --action_size"
        )
    known = PRESETS["l14"]
    ours = (sizes.encoder_width, sizes.encoder_grid)
    if sizes.encoder == known["encoder"] and ours != (known["encoder_width"], known["encoder_grid"]):
        notes.append(
            f"the file has no CLIP, and its policy wants patches of width {ours[0]} on a grid {ours[1]}, which "
            f"{sizes.encoder} does not give ({known['encoder_width']} on {known['encoder_grid']}); give --encoder"
        )
    return notes


def _samples(path: Path) -> dict:
    from fovea.encoders.files import read_weights

    if not path.is_file():
        raise FoveaError(f"check: expected a file with in.* and out.* tensors, found none at {path}")
    return {key: value for key, value in read_weights(path).items() if key.startswith(("in.", "out."))}
