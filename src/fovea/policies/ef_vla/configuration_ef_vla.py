"""Configuration of EF-VLA and of its baseline LF-VLA."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig, CosineDecayWithWarmupSchedulerConfig

from fovea.errors import FoveaError
from fovea.policies.checked import check_finite
from fovea.policies.data_checks import check_gripper, check_pose_state
from fovea.policies.ef_vla.presets_ef_vla import (
    ACTION,
    LIBERO_CAMERAS,
    PRESETS,
    STATE,
    libero_inputs,
    libero_outputs,
)

_POSITIVE = (
    *("n_obs_steps", "obs_stride", "chunk_size", "n_action_steps"),
    *("readouts", "pooling_blocks", "pooling_heads", "value_position_width"),
    *("text_width", "vision_width", "proprio_width", "proprio_hidden"),
    *("dim_model", "n_layers", "n_heads", "mlp_ratio"),
    *("optimizer_lr", "optimizer_lr_vision"),
    *("scratch_patch_size", "scratch_width", "scratch_layers", "scratch_heads"),
)
_COLUMNS = ("VISUAL", "STATE", "ACTION")
PAPER_WIDTH, OUR_WIDTH = 512, 256  # of the transformer over time: Table 5, and with the encoder that ships
PAPER_TEMPERATURE = 0.07
POSE_SIZE = 10


@PreTrainedConfig.register_subclass("ef_vla")
@dataclass
class EFVLAConfig(PreTrainedConfig):
    """Everything that makes an EF-VLA policy (papers: EF-VLA, later published as OTTER).

    The defaults are Table 5 of the paper, but for the transformer's width with our own small encoder: that is the
    preset `tiny`, which trains on a laptop's CPU. `preset` builds the others, `otter` the released OTTER code, and
    `EFVLAConfig.tiny` a toy for tests.

    Args:
        n_obs_steps: frames of context T that the policy sees.
        obs_stride: steps from one frame of the context to the next. 1, as in the paper, sees every frame; 4 sees four
            times as far back, and looks at every fourth frame only while it acts. Divides `n_action_steps`.
        chunk_size: horizon H, future actions predicted at every frame.
        n_action_steps: actions of a chunk that are played before the next one is predicted; with temporal
            ensembling, chunks are cut to this length and one is predicted at every step.
        input_features, output_features: LeRobot's; empty means "take them from the dataset".
        normalization_mapping: LeRobot's. Pictures are left alone (the encoder has its own preprocessing). Empty
            (the default) means mean/std states and quantile-scaled actions for `env`; with `se3_relative` nothing
            is ever scaled.

        encoder: registry name of the frozen encoder (`fovea.encoders.create_encoder`).
        tap: where the encoder's patches are read (attn_qk, attn_qq, out); None takes the encoder's default.
        encoder_identity: hash of weights, tap and preprocessing, filled in when the encoder is first built; a
            checkpoint refuses to work with an encoder of another identity.
        encoder_width, encoder_grid: joint width D and (rows, columns) of patches; None takes them from the encoder.
        temperature: initial image-text temperature tau; None takes 0.07, or the encoder's where it ships with us.
        max_scale: largest 1 / tau (CLIP's own cap); None for no cap, as OTTER's release.
        encoder_backend: what runs the frozen encoder's picture tower: torch, or openvino-fp32, -bf16 or -int8 (the
            extra `int8`; int8 is calibrated once by `fovea compile`). The policy is the same: a compiled copy
            stands for the encoder of `encoder_identity`. Acting only; cached features keep to torch.
        word_positions: None uses the words of the instruction and nothing else; a number uses that many first
            text positions, start, end and padding included (OTTER's release: 15).
        pool_true_text: with `word_positions`, keep start, end and padding out of the poolings (OTTER's switch of that
            name).
        vision: `frozen` (features may be cached); `finetune` trains the encoder with the policy, end to end;
            `scratch` trains a small vision transformer in place of its picture tower (the ablation
            "w/o CLIP vision").
        image_size: side in pixels of the pictures that `scratch` sees; None takes the encoder's.
        scratch_patch_size, scratch_width, scratch_layers, scratch_heads: that vision transformer, ViT-Ti/16 with half
            of its layers by default.

        fusion: `early` (EF-VLA, eq. 1) or `late` (LF-VLA: all patches go to the pooling).
        value_positions: where-information on the patches that are collected: none, sincos1d, sincos2d.
        value_join: `add` positions to the content or `concat` them behind it.
        value_position_width: width of concatenated positions.
        value_content_dropout: share of training windows whose patch content is zeroed, positions kept.
        use_text_pooling: False is the ablation "w/o f'_l".
        text_dropout: share of training windows whose pooled text is zeroed.
        use_proprio: False is the ablation "w/o f_e".
        state_layout: `axis_angle`: xyz, axis-angle, gripper fingers (LeRobot's LIBERO; turned into xyz, first two
            rows of the rotation matrix, one opening); `as_is`: any vector.
        proprio_noise: standard deviation of Gaussian noise on the proprioception in training (after scaling); None
            takes 0.05, or with `se3_relative`, where metres are not scaled, 0.01.

        readouts, pooling_blocks, pooling_heads, pooling_style: learned-query poolings; `otter` reproduces the
            residual of that release.
        text_width, vision_width, proprio_width, proprio_hidden: widths of the parts of a policy token; the vision
            width is shared by all cameras.

        dim_model, n_layers, n_heads, mlp_ratio, dropout: the causal transformer over time; width 0 takes 512, or 256
            with an encoder that ships with us.
        time_positions: `learned` or `rotary`.
        final_norm: LayerNorm after the transformer (OTTER's release has none).

        action_space: `env` plays actions as the dataset stores them. `se3_relative` predicts poses relative to the
            present end-effector pose; states and actions are then poses (see `fovea.actions.se3`; the state may
            also be `axis_angle`), unnormalised, and the policy returns absolute poses. With LIBERO's 7-number
            actions (changes of pose), it learns from the poses they command and returns the changes that lead there.
        gripper_loss: `l1`, or `bce` for a last action dimension that is -1 (open) or +1 (close).
        gripper_loss_weight: weight of the cross-entropy beside one L1 dimension.
        temporal_ensemble: none (receding horizon), newest (OTTER: newest chunk weighs most), oldest (ACT).
        temporal_ensemble_coeff: c of the weights exp(+-c i); None takes 0.05 for newest and 0.01 for oldest.

        optimizer_lr, optimizer_weight_decay, optimizer_grad_clip, warmup_steps, decay_steps: LeRobot's presets
            (Table 6). After `decay_steps` the rate stays at a hundredth: give it the steps of a longer training.
        optimizer_lr_vision: of an encoder that is finetuned; `fovea train` keeps its proportion to `optimizer_lr`,
            whatever the rate and schedule of the rest.

    Raises:
        FoveaError: a field or a combination of fields makes no sense.
    """

    n_obs_steps: int = 12
    obs_stride: int = 1
    chunk_size: int = 12
    n_action_steps: int = 8
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=dict)

    encoder: str = "tiny"
    tap: str | None = None
    encoder_identity: str | None = None
    encoder_backend: Literal["torch", "openvino-fp32", "openvino-bf16", "openvino-int8"] = "torch"
    encoder_width: int | None = None
    encoder_grid: tuple[int, int] | None = None
    temperature: float | None = None
    max_scale: float | None = 100.0
    word_positions: int | None = None
    pool_true_text: bool = False
    vision: Literal["frozen", "finetune", "scratch"] = "frozen"
    image_size: int | None = None
    scratch_patch_size: int = 16
    scratch_width: int = 192
    scratch_layers: int = 6
    scratch_heads: int = 3

    fusion: Literal["early", "late"] = "early"
    value_positions: Literal["none", "sincos1d", "sincos2d"] = "sincos2d"
    value_join: Literal["add", "concat"] = "add"
    value_position_width: int = 64
    value_content_dropout: float = 0.0
    use_text_pooling: bool = True
    text_dropout: float = 0.0
    use_proprio: bool = True
    state_layout: Literal["axis_angle", "as_is"] = "axis_angle"
    proprio_noise: float | None = None

    readouts: int = 4
    pooling_blocks: int = 2
    pooling_heads: int = 8
    pooling_style: Literal["pre_ln", "otter"] = "pre_ln"
    text_width: int = 128
    vision_width: int = 512
    proprio_width: int = 64
    proprio_hidden: int = 256

    dim_model: int = 0
    n_layers: int = 4
    n_heads: int = 8
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    time_positions: Literal["learned", "rotary"] = "learned"
    final_norm: bool = True

    action_space: Literal["env", "se3_relative"] = "env"
    gripper_loss: Literal["l1", "bce"] = "bce"
    gripper_loss_weight: float = 1.0
    temporal_ensemble: Literal["none", "newest", "oldest"] = "none"
    temporal_ensemble_coeff: float | None = None

    optimizer_lr: float = 3e-4
    optimizer_lr_vision: float = 3e-5
    optimizer_weight_decay: float = 0.01
    optimizer_grad_clip: float = 1.0
    warmup_steps: int = 2000
    decay_steps: int = 40000

    def __post_init__(self) -> None:
        self.device: str | None = self.device or best_device()
        super().__post_init__()
        ours = self.encoder.partition(":")[0] == "tiny"
        self.dim_model = self.dim_model or (OUR_WIDTH if ours else PAPER_WIDTH)
        if self.temperature is None and not ours:
            self.temperature = PAPER_TEMPERATURE
        if self.proprio_noise is None:
            self.proprio_noise = 0.01 if self.action_space == "se3_relative" else 0.05
        if self.action_space == "se3_relative":  # poses, whose geometry a scale would break
            self.normalization_mapping = dict.fromkeys(_COLUMNS, NormalizationMode.IDENTITY)
        elif not self.normalization_mapping:
            modes = (NormalizationMode.IDENTITY, NormalizationMode.MEAN_STD, NormalizationMode.QUANTILES)
            self.normalization_mapping = dict(zip(_COLUMNS, modes, strict=True))
        if self.encoder_grid is not None:
            self.encoder_grid = (int(self.encoder_grid[0]), int(self.encoder_grid[1]))
        self._check_numbers()
        self._check_choices()
        if self.vision == "scratch" and self.image_size is not None:
            self.set_scratch_grid(self.image_size)

    def _check_numbers(self) -> None:
        check_finite(self)
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise FoveaError(f"expected {name} > 0, got {getattr(self, name)}")
        for name in ("value_content_dropout", "text_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise FoveaError(f"expected {name} in [0, 1), got {getattr(self, name)}")
        for name in ("proprio_noise", "gripper_loss_weight", "temporal_ensemble_coeff"):
            if (getattr(self, name) or 0) < 0:
                raise FoveaError(f"expected {name} >= 0, got {getattr(self, name)}")
        for name in ("temperature", "max_scale", "image_size"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise FoveaError(f"expected {name} > 0, got {getattr(self, name)}")
        if self.encoder_identity is None:  # else it was checked before it was trained
            self.check_temperature()
        if self.n_action_steps > self.chunk_size:
            raise FoveaError(
                f"expected n_action_steps <= chunk_size = {self.chunk_size}, got {self.n_action_steps}; "
                "a chunk cannot be played beyond its end"
            )
        if self.n_action_steps % self.obs_stride:
            raise FoveaError(
                f"expected obs_stride to divide n_action_steps = {self.n_action_steps}, got {self.obs_stride}; "
                "a chunk is predicted when a frame has been looked at"
            )
        if self.obs_stride > 1 and self.temporal_ensemble != "none":
            raise FoveaError(
                f"expected obs_stride=1 with temporal_ensemble={self.temporal_ensemble}, which predicts at every "
                f"frame, got {self.obs_stride}"
            )
        if self.dim_model % self.n_heads:
            raise FoveaError(f"expected n_heads to divide dim_model = {self.dim_model}, got {self.n_heads}")
        if self.scratch_width % self.scratch_heads:
            raise FoveaError(
                f"expected scratch_heads to divide scratch_width = {self.scratch_width}, got {self.scratch_heads}"
            )
        if self.word_positions is not None and self.word_positions < 1:
            raise FoveaError(f"expected word_positions >= 1 or None, got {self.word_positions}")
        if self.pool_true_text and self.word_positions is None:
            raise FoveaError(
                "expected word_positions with pool_true_text, got None, which masks all but words already"
            )

    def check_temperature(self) -> None:
        """Refuse a tau that begins beyond its cap, where it could not be what was asked for."""
        if self.fusion != "early" or self.temperature is None or self.max_scale is None:
            return
        if self.temperature * self.max_scale < 1 - 1e-6:
            raise FoveaError(
                f"expected temperature >= 1 / max_scale = {1 / self.max_scale:g}, got {self.temperature:g}; raise "
                "max_scale, or set it to None for no cap"
            )

    def _check_choices(self) -> None:
        choices = {
            "vision": ("frozen", "finetune", "scratch"),
            "encoder_backend": ("torch", "openvino-fp32", "openvino-bf16", "openvino-int8"),
            "fusion": ("early", "late"),
            "value_positions": ("none", "sincos1d", "sincos2d"),
            "value_join": ("add", "concat"),
            "state_layout": ("axis_angle", "as_is"),
            "pooling_style": ("pre_ln", "otter"),
            "time_positions": ("learned", "rotary"),
            "action_space": ("env", "se3_relative"),
            "gripper_loss": ("l1", "bce"),
            "temporal_ensemble": ("none", "newest", "oldest"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise FoveaError(f"expected {name} among {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.uses_pixels and self.encoder_backend != "torch":
            raise FoveaError(
                f"expected encoder_backend=torch with vision={self.vision}, got {self.encoder_backend}, which cannot "
                "be trained"
            )
        if self.gripper_loss == "bce" and self.action_space != "env":
            raise FoveaError(
                "expected gripper_loss=l1 with action_space=se3_relative (its gripper is a position, not "
                "open or close), got bce"
            )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "EFVLAConfig":
        """Build a preset for LIBERO's two cameras: tiny, b32, b16, l14 (Table 5), clip (Table 5 with any CLIP, whose
        sizes are read from it), otter (the released code, on poses; with `state_layout=axis_angle` on LIBERO's
        states and actions, which it turns into poses and back).

        Each but the last is also known as `ef_vla_<name>`.

        Raises:
            FoveaError: no such preset.
        """
        if name not in PRESETS:
            raise FoveaError(f"expected a preset among {', '.join(PRESETS)}, got {name!r}")
        sizes = dict(PRESETS[name])
        if changes.get("encoder", sizes["encoder"]) != sizes["encoder"]:
            sizes |= dict.fromkeys(("encoder_width", "encoder_grid", "image_size"))  # another's are its own
        features = {"input_features": libero_inputs(), "output_features": libero_outputs()}
        if name == "otter" and changes.get("state_layout") == "axis_angle":
            sizes |= {"input_features": libero_inputs(size=224), "output_features": libero_outputs()}
        return cls(**{**features, **sizes, **changes})

    @classmethod
    def tiny(cls, **changes: Any) -> "EFVLAConfig":
        """A toy for tests: the whole architecture in a few thousand parameters."""
        sizes: dict[str, Any] = {
            "input_features": libero_inputs(size=32),
            "output_features": libero_outputs(),
            "n_obs_steps": 4,
            "chunk_size": 6,
            "n_action_steps": 3,
            "text_width": 32,
            "vision_width": 64,
            "proprio_width": 8,
            "proprio_hidden": 16,
            "pooling_heads": 2,
            "dim_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "scratch_patch_size": 8,
            "scratch_width": 24,
            "scratch_layers": 2,
        }
        return cls(**{**sizes, **changes})

    @property
    def uses_pixels(self) -> bool:
        """Whether the policy must see pictures: its vision is trained, so cached features would be wrong."""
        return self.vision != "frozen"

    def set_scratch_grid(self, image_size: int) -> None:
        """Fill in the grid of the vision transformer that is trained from scratch on pictures of this side."""
        if image_size % self.scratch_patch_size:
            raise FoveaError(
                f"expected a scratch_patch_size that divides image_size = {image_size}, got {self.scratch_patch_size}"
            )
        side = image_size // self.scratch_patch_size
        self.image_size, self.encoder_grid = image_size, (side, side)

    @property
    def camera_keys(self) -> list[str]:
        """Keys of the camera pictures, sorted; LIBERO's two if no feature says otherwise."""
        return sorted(self.image_features) or list(LIBERO_CAMERAS)

    @property
    def action_size(self) -> int:
        """A, numbers of a predicted action: 10 for poses, else the data set's (7, LIBERO, if no feature says)."""
        if self.action_space == "se3_relative":
            return POSE_SIZE
        feature = (self.output_features or {}).get(ACTION)
        return 7 if feature is None else feature.shape[0]

    @property
    def plays_libero(self) -> bool:
        """Whether predicted poses are played as LIBERO's changes of pose: the data set has those, 7 numbers."""
        feature = (self.output_features or {}).get(ACTION)
        return self.action_space == "se3_relative" and feature is not None and feature.shape[0] == 7

    @property
    def proprio_size(self) -> int:
        """Width of the proprioception that the model sees."""
        feature = (self.input_features or {}).get(STATE)
        return 10 if feature is None or self.state_layout == "axis_angle" else feature.shape[0]

    def check_data(self, stats: dict[str, Any] | None) -> None:
        """Refuse a data set of another robot, as far as LeRobot's statistics of it tell.

        Raises:
            FoveaError: a gripper that is not -1 and +1, or a state that is no position and axis-angle.
        """
        if self.gripper_loss == "bce":
            check_gripper(stats, "--policy.gripper_loss=l1")
        if self.state_layout == "axis_angle" and self.robot_state_feature is not None:
            check_pose_state(stats)

    def validate_features(self) -> None:
        """Refuse a dataset without camera, state (unless `use_proprio` is off) or action."""
        if not self.image_features:
            raise FoveaError(f"expected at least one camera among the inputs, got {self.input_features}")
        if self.use_proprio and self.robot_state_feature is None:
            raise FoveaError(f"expected {STATE} among the inputs, got {sorted(self.input_features or {})}")
        state = self.robot_state_feature
        if state is not None and self.state_layout == "axis_angle" and state.shape[0] not in (7, 8):
            raise FoveaError(
                f"expected {STATE} of 7 or 8 numbers (xyz, axis-angle, gripper), got {state.shape[0]}; "
                "set state_layout=as_is for another robot"
            )
        if self.action_feature is None:
            raise FoveaError(f"expected {ACTION} among the outputs, got {sorted(self.output_features or {})}")
        if self.action_space == "se3_relative":
            self._check_poses(self.action_feature.shape[0], 0 if state is None else state.shape[0])

    def _check_poses(self, action: int, state: int) -> None:
        libero = action == 7 and self.state_layout == "axis_angle"
        if action != POSE_SIZE and not libero:
            raise FoveaError(
                f"expected poses of {POSE_SIZE} numbers as actions with action_space=se3_relative (or LIBERO's 7 and "
                f"states of layout axis_angle), got {action} and {self.state_layout}"
            )
        if self.state_layout == "as_is" and state != POSE_SIZE:
            raise FoveaError(
                f"expected a pose of {POSE_SIZE} numbers as {STATE} with action_space=se3_relative, got {state}; "
                "actions are relative to it"
            )

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip,
        )

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        return CosineDecayWithWarmupSchedulerConfig(
            num_warmup_steps=self.warmup_steps,
            num_decay_steps=self.decay_steps,
            peak_lr=self.optimizer_lr,
            decay_lr=0.01 * self.optimizer_lr,
        )

    @property
    def observation_delta_indices(self) -> list[int]:
        return list(range((1 - self.n_obs_steps) * self.obs_stride, 1, self.obs_stride))

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range((1 - self.n_obs_steps) * self.obs_stride, self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None


def best_device() -> str:
    """Name the device that a policy runs on unless told otherwise."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def checked_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is.

    Raises:
        FoveaError: this machine does not have it.
    """
    try:
        device = torch.device(name or best_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise FoveaError(
            f"expected a device of this machine, such as {best_device()}, got {name}: {error}"
        ) from error
    return device


__all__ = [
    "ACTION",
    "LIBERO_CAMERAS",
    "PRESETS",
    "STATE",
    "EFVLAConfig",
    "best_device",
    "checked_device",
    "libero_inputs",
    "libero_outputs",
]
