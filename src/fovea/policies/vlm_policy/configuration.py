"""Configuration that policies over a small VLM share; each policy type adds its own choices."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig, LRSchedulerConfig

from fovea.errors import FoveaError
from fovea.fusion.focus import SCOPES, Scope
from fovea.fusion.rotary import ROTARIES, RotaryKind
from fovea.nn.gates import GATES, GateKind
from fovea.policies.checked import check_finite
from fovea.policies.data_checks import check_gripper
from fovea.policies.ef_vla.configuration_ef_vla import (
    ACTION,
    LIBERO_CAMERAS,
    STATE,
    best_device,
    libero_inputs,
    libero_outputs,
)
from fovea.vlm.config import VLMConfig

Attention = Literal["mixed", "cascaded", "parallel"]
Representation = Literal["vlm", "ds", "vlm+ds", "vggt"]
FeaturePositions = Literal["none", "learned", ""]
ChunkQueries = Literal["learned", "zeros"]
Gripper = Literal["signed", "one_is_open", "as_is"]
_CHOICES: dict[str, tuple[str, ...]] = {
    "attention": ("mixed", "cascaded", "parallel"),
    "rotary": ROTARIES,
    "gate": GATES,
    "top_k_scope": SCOPES,
    "representation": ("vlm", "ds", "vlm+ds", "vggt"),
    "feature_positions": ("none", "learned"),
    "chunk_queries": ("learned", "zeros"),
    "states_from": ("vlm", "batch"),
    "gripper": ("signed", "one_is_open", "as_is"),
}
VISION_STATES, QUERY_STATES = "observation.vlm.vision", "observation.vlm.queries"
EXTRA_MASK = ".mask"  # behind `extra_key`
RAW_FEATURES, VISION_MASK = "observation.vlm.features", "observation.vlm.mask"


@dataclass
class VLMPolicyConfig(PreTrainedConfig):
    """A chunk of actions from the states of every layer of a VLM.

    Args:
        n_obs_steps: 1; these policies see the present frame only.
        chunk_size: horizon H (8; the papers use 16 for two arms).
        n_action_steps: actions of a chunk that are played, open loop, before the next one is predicted.
        input_features, output_features: LeRobot's; empty means "take them from the dataset".
        normalization_mapping: LeRobot's. Empty (the default) means states and actions scaled from their quantiles q01
            and q99 to [-1, 1] and clipped, the gripper as it is, pictures left alone.

        vlm: the VLM, see `fovea.vlm.config.VLMConfig`; its number of cameras is taken from the inputs.
        states_from: `vlm`, or `batch`: the policy holds no VLM and batches bring its states
            (`observation.vlm.vision` (B, L, M, D), `.queries` (B, L, Q, D), `.mask` (B, M) where some are padding, and
            `.features` (B, M, R) for a representation with ds).
        dim_model: width of the policy; None: that of the VLM.
        n_heads: attention heads of the policy.

        attention: `mixed`: one softmax over chunk, queries and vision; `cascaded`: one after the other; `parallel`: the
            same three, none of which sees what the others found.
        separate_projections: of mixed attention: own keys and values for the chunk, the queries and vision.
        rotary: positions inside attention: none, true, or compat (VLA-Adapter's, which is no rotation).
        gate: on what vision contributes: none, scalar (tanh of one parameter; on the logits of mixed attention), head,
            element.
        top_k: vision tokens that may be seen, of all cameras together; None for all.
        top_k_scope: `query`: every query and head chooses; `shared`: one set for all; `camera`: as query, with the same
            share for every camera.
        representation: what vision keys / values are made of: `vlm`: states / states; `ds`: raw features (DINOv2 and
            SigLIP) / raw features; `vlm+ds`: states / raw features; `vggt`: tokens computed elsewhere for both.
        feature_positions: where-information on raw features (a representation with ds): `none`: they are taken as they
            are, as in the paper, whose DINOv2 and SigLIP tell the place of a patch by themselves; `learned`: they are
            brought to unit variance, and a learned place and camera are added. Empty takes `learned` for a VLM of kind
            tiny, whose encoder was trained to know what a patch shows and hardly tells where it is.
        extra_key, extra_width: batch key and width X of those tokens (B, M', X); `<extra_key>.mask` (B, M') may say
            which of them are real.
        pool_vision: average vision tokens 2x2 (a control in FocusVLA's Fig. 3).
        chunk_queries: where a chunk begins: `learned`, or `zeros` (VLA-Adapter's; the actions of a chunk are then told
            apart by rotary positions only).

        center_crop: share of a picture's area that the policy sees when it acts, from the middle. Public weights of
            VLA-Adapter were trained on random crops of 0.9 and act on the middle one. In training, pictures come as
            augmentation left them; cached features, of whole pictures, are refused.
        gripper: what the last action means: `signed`: -1 opens, +1 closes, played as one of the two (LIBERO and its
            data sets); `one_is_open`: the network speaks of 0 (closed) to 1 (open), as VLA-Adapter's public weights
            do, while data sets and actions stay signed; `as_is`: a number like the others.
        optimizer_lr, optimizer_weight_decay, optimizer_grad_clip: LeRobot's presets; the rate stays constant.

    Raises:
        FoveaError: a field or a combination of fields makes no sense.
    """

    n_obs_steps: int = 1
    chunk_size: int = 8
    n_action_steps: int = 8
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=dict)

    vlm: VLMConfig = field(default_factory=VLMConfig)
    states_from: Literal["vlm", "batch"] = "vlm"
    dim_model: int | None = None
    n_heads: int = 8

    attention: Attention = "mixed"
    separate_projections: bool = True
    rotary: RotaryKind = "none"
    gate: GateKind = "none"
    top_k: int | None = None
    top_k_scope: Scope = "query"
    representation: Representation = "vlm"
    feature_positions: FeaturePositions = ""
    extra_key: str = "observation.tokens.vggt"
    extra_width: int = 2048
    pool_vision: bool = False
    chunk_queries: ChunkQueries = "learned"
    center_crop: float = 1.0

    gripper: Gripper = "signed"
    optimizer_lr: float = 2e-4
    optimizer_weight_decay: float = 0.01
    optimizer_grad_clip: float = 1.0

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}
    TOY: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        self.device: str | None = self.device or best_device()
        super().__post_init__()
        if not self.normalization_mapping:
            self.normalization_mapping = {
                "VISUAL": NormalizationMode.IDENTITY,
                "STATE": NormalizationMode.QUANTILES,
                "ACTION": NormalizationMode.QUANTILES,
            }
        check_finite(self)
        if not self.feature_positions:
            placed = self.vlm.kind == "tiny" and self.states_from == "vlm"
            self.feature_positions = "learned" if placed else "none"
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise FoveaError(f"expected {name} among {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("chunk_size", "n_action_steps", "n_heads", "extra_width"):
            if getattr(self, name) < 1:
                raise FoveaError(f"expected {name} > 0, got {getattr(self, name)}")
        if not 0 < self.center_crop <= 1:
            raise FoveaError(f"expected center_crop in (0, 1], got {self.center_crop}")
        for name in ("dim_model", "top_k"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise FoveaError(f"expected {name} > 0 or None, got {getattr(self, name)}")
        self._check_together()

    def _check_together(self) -> None:
        if self.n_obs_steps != 1:
            raise FoveaError(f"expected n_obs_steps = 1 (one frame is all it sees), got {self.n_obs_steps}")
        if self.n_action_steps > self.chunk_size:
            raise FoveaError(
                f"expected n_action_steps <= chunk_size = {self.chunk_size}, got {self.n_action_steps}; "
                "a chunk cannot be played beyond its end"
            )
        width = self.dim_model or self.vlm.width
        if width % self.n_heads:
            raise FoveaError(
                f"expected n_heads to divide the policy's width {width} (dim_model, or the VLM's), got {self.n_heads}"
            )
        if self.feature_positions == "learned" and self.representation in ("ds", "vlm+ds") and width % 4:
            raise FoveaError(
                f"expected a policy's width (dim_model, or the VLM's) that 4 divides with feature_positions=learned, "
                f"whose places are sines and cosines of rows and columns, got {width}; or set feature_positions=none"
            )
        if self.rotary != "none" and width // self.n_heads % 2:
            raise FoveaError(
                f"expected heads of even width for rotary positions, got {width // self.n_heads}; change n_heads"
            )
        if self.attention == "mixed" and not self.separate_projections and width != self.vlm.width:
            raise FoveaError(
                f"expected dim_model = {self.vlm.width}, the VLM's width, where one projection serves all tokens, got "
                f"{width}; or separate the projections (variant=pro)"
            )
        if self.states_from == "batch" and self.vlm.feature_width is None:
            raise FoveaError(
                "expected vlm.feature_width with states_from=batch: there is no encoder to ask; "
                "give the width of the raw features, or that of the states if they are not used"
            )
        if self.feature_positions == "learned" and self.states_from == "batch":
            raise FoveaError(
                "expected feature_positions=none with states_from=batch: nobody says on what grid raw features lie"
            )
        if self.vlm.compat and (self.representation != "vlm" or self.pool_vision):
            raise FoveaError(
                "expected representation=vlm and pool_vision=false with vlm.compat, whose states of patches are those "
                f"one place early, got {self.representation} and {self.pool_vision}"
            )
        if self.representation == "vggt" and self.pool_vision:
            raise FoveaError(
                "expected pool_vision=false with representation=vggt: tokens computed elsewhere have no grid to pool"
            )
        scaling = self.normalization_mapping.get("ACTION", NormalizationMode.IDENTITY)
        if self.gripper != "as_is" and scaling not in (
            NormalizationMode.QUANTILES,
            NormalizationMode.IDENTITY,
        ):
            raise FoveaError(
                f"expected ACTION scaled by QUANTILES or IDENTITY with gripper={self.gripper}: other modes move -1 and "
                f"+1, got {scaling}; change normalization_mapping, or set gripper=as_is"
            )
        cameras = len(self.camera_keys)
        if self.top_k is not None and self.top_k_scope == "camera" and self.top_k < cameras:
            raise FoveaError(f"expected top_k >= {cameras}, one token a camera, got {self.top_k}")

    def settle(self) -> None:
        """Decide what was left open until cameras and encoder are known."""

    @property
    def as_released(self) -> bool:
        """Whether numbers are scaled as VLA-Adapter's public code does: narrow ranges as they are, actions not cut."""
        return self.gripper == "one_is_open"

    @property
    def film(self) -> bool:
        """Whether blocks hold VLA-Adapter-Pro's unused layer."""
        return False

    @property
    def title(self) -> str:
        """What reports call the policy."""
        return self.type

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Build a preset for LIBERO's two cameras: `full`, the papers' sizes, or `tiny`, for a CPU.

        Args:
            changes: fields of the configuration; `vlm` may be a dictionary of fields of the VLM's.

        Raises:
            FoveaError: no such preset.
        """
        if name not in cls.PRESETS:
            raise FoveaError(f"expected a preset among {', '.join(cls.PRESETS)}, got {name!r}")
        size = 224 if name == "full" else 128
        vlm = changes.pop("vlm", {})
        vlm = VLMConfig.preset(name, **vlm) if isinstance(vlm, dict) else vlm
        values = {"vlm": vlm, **cls.PRESETS[name], **changes}
        features = {"input_features": libero_inputs(size), "output_features": libero_outputs()}
        return cls(**{**features, **values})

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """A toy for tests: the whole architecture in a few thousand parameters."""
        values: dict[str, Any] = {
            "input_features": libero_inputs(size=32),
            "output_features": libero_outputs(),
            "vlm": VLMConfig.toy(),
            "n_heads": 4,
            "chunk_size": 6,
            "n_action_steps": 3,
            **cls.TOY,
        }
        return cls(**{**values, **changes})

    @property
    def uses_pixels(self) -> bool:
        """Whether training needs pictures, because the vision encoder itself learns; else cached features do."""
        return self.states_from == "vlm" and self.vlm.kind != "tiny" and self.vlm.trainable in ("all", "lora")

    def clips(self, kind: str) -> bool:
        """Whether STATE or ACTION is scaled by quantiles, and clipped therefore."""
        return self.normalization_mapping.get(kind) == NormalizationMode.QUANTILES

    @property
    def camera_keys(self) -> list[str]:
        """Keys of the camera pictures, sorted; LIBERO's two if no feature says otherwise."""
        return sorted(self.image_features) or list(LIBERO_CAMERAS)

    @property
    def action_size(self) -> int:
        """A, 7 (LIBERO) if no feature says otherwise."""
        feature = (self.output_features or {}).get(ACTION)
        return 7 if feature is None else feature.shape[0]

    @property
    def proprio_size(self) -> int:
        """P, 8 (LIBERO) if no feature says otherwise."""
        feature = (self.input_features or {}).get(STATE)
        return 8 if feature is None else feature.shape[0]

    def check_data(self, stats: dict[str, Any] | None) -> None:
        """Refuse a data set whose last action is no gripper that opens or closes, unless `gripper` says so."""
        if self.gripper != "as_is":
            check_gripper(stats, "--policy.gripper=as_is")

    def validate_features(self) -> None:
        """Refuse a dataset without camera, state or action."""
        if not self.image_features:
            raise FoveaError(f"expected at least one camera among the inputs, got {self.input_features}")
        if self.robot_state_feature is None:
            raise FoveaError(f"expected {STATE} among the inputs, got {sorted(self.input_features or {})}")
        if self.action_feature is None:
            raise FoveaError(f"expected {ACTION} among the outputs, got {sorted(self.output_features or {})}")

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip,
        )

    def get_scheduler_preset(self) -> LRSchedulerConfig | None:
        return None

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None
