"""What `fovea bench ef-vla` times: training steps and control steps of the published EF-VLA, of ours, and of ACT.

Shape letters: B batch, T time, C cameras, K pictures, S side in pixels, H horizon, A action.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fovea.data import keys
from fovea.data.dataset import EpisodeInfo, RecordedDataset
from fovea.data.feature_build import build_features
from fovea.data.windows import WindowSource
from fovea.pipelines.bench_ef_vla_reference import ReferenceController, ReferenceEFVLA
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors
from fovea.training.trainer import TrainConfig, train

SENTENCES = (
    "pick up the alphabet soup and place it in the basket",
    "pick up the milk and place it in the basket",
    "put the bowl on the plate",
    "open the middle drawer of the cabinet",
)
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
EPISODES, WARM_STEPS = 4, 3
ACT_SIZES: dict[str, Any] = {}  # LeRobot's own: 51.6 M parameters


def pictures(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured fields with a few rectangles on them: uint8 (K, S, S, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side), indexing="ij")
    found = np.empty((count, side, side, 3), np.uint8)
    for number in range(count):
        a, b, c = rng.uniform(0, 255, (3, 3))
        picture = a * x[..., None] + b * y[..., None] + c * (1 - x * y)[..., None]
        for _ in range(6):
            top, left = rng.integers(0, side, 2)
            height, width = rng.integers(2, max(3, side // 3), 2)
            picture[top : top + height, left : left + width] = rng.uniform(0, 255, 3)
        found[number] = np.clip(picture, 0, 255)
    return found


class SyntheticDataset(RecordedDataset):
    """A data set that is drawn instead of read: `EPISODES` episodes of two cameras."""

    def __init__(self, side: int, length: int) -> None:
        rng = np.random.default_rng(0)
        self.root, self.cameras, self.fps = Path("synthetic"), keys.IMAGES, 20
        self.state = rng.normal(0, 0.3, (EPISODES * length, 8)).astype(np.float32)
        self.action = np.clip(rng.normal(0, 0.5, (EPISODES * length, 7)), -1, 1).astype(np.float32)
        self.action[:, -1] = np.sign(self.action[:, -1])
        self.episodes = [
            EpisodeInfo(i, i * length, (i + 1) * length, SENTENCES[i % len(SENTENCES)])
            for i in range(EPISODES)
        ]
        self.record, self._side = {}, side
        self.fingerprint = f"synthetic {side} {length}"

    def frames(self, episode_index: int, camera: str, first: int = 0, count: int | None = None) -> np.ndarray:
        """(n, S, S, 3) uint8."""
        length = len(self.episodes[episode_index])
        seed = 1000 * episode_index + self.cameras.index(camera)
        return pictures(length, self._side, seed)[first : length if count is None else first + count]


@dataclass(frozen=True)
class Training:
    """Speed of training steps: seconds a step, and what came before it."""

    seconds: float
    encoded_per_second: float = 0.0
    cache_bytes: int = 0


def train_ours(policy: EFVLAPolicy, batch: int, steps: int, length: int, clock: Clock) -> Training:
    """Cache the features of a synthetic data set in a temporary folder and train on them with our trainer.

    A step is all that lies between two calls of the policy: backward pass, clipping, optimiser, averaged weights,
    and the next batch from the memory map.
    """
    config = policy.config
    dataset = SyntheticDataset(policy.encoder.image_size, length)
    before, after = make_ef_vla_pre_post_processors(config)
    with tempfile.TemporaryDirectory() as folder:
        began = clock()
        features = build_features(
            policy.encoder, dataset, root=folder, workers=torch.get_num_threads(), progress=False
        )
        encoding = clock() - began
        source = WindowSource(
            dataset, features, context=config.n_obs_steps, horizon=config.chunk_size, stride=config.obs_stride
        )
        settings = TrainConfig(
            steps=WARM_STEPS + steps + 1,
            batch_size=batch,
            log_every=WARM_STEPS + steps + 1,
            save_every=WARM_STEPS + steps + 1,
            warmup_steps=1,
        )
        marks: list[float] = []
        hook = policy.register_forward_pre_hook(lambda *_: marks.append(clock()))
        train(settings, policy, before, after, source, Path(folder) / "run", progress=False)
        hook.remove()
        return Training(
            float(np.median(np.diff(marks[WARM_STEPS:]))),
            len(dataset) * len(dataset.cameras) / encoding,
            2 * int(np.prod(features.shape)),
        )


def train_reference(model: ReferenceEFVLA, batch: int, steps: int, clock: Clock) -> Training:
    """The published training step: pictures through CLIP, forward, backward, clipping, AdamW."""
    sizes, side = model.sizes, model.clip.visual.image_size[0]
    optimizer = torch.optim.AdamW(model.trained(), lr=3e-4, fused=True)
    model.train()
    model.clip.eval()

    def step(windows: int) -> None:
        seen = torch.from_numpy(pictures(windows * sizes.context * sizes.cameras, side)).permute(0, 3, 1, 2)
        seen = seen.contiguous().unflatten(0, (windows, sizes.context, sizes.cameras))
        state = torch.randn(windows, sizes.context, sizes.state)
        target = torch.randn(windows, sizes.context, sizes.horizon, sizes.action)
        sentences = [SENTENCES[i % len(SENTENCES)] for i in range(windows)]
        began = clock()
        loss = model.loss(seen, sentences, state, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.trained(), 1.0)
        optimizer.step()
        times.append(clock() - began)

    times: list[float] = []
    step(1)  # warm
    times.clear()
    for _ in range(steps):
        step(batch)
    return Training(float(np.median(times)))


def observation(number: int, side: int) -> dict[str, Any]:
    """A batch of one frame as LeRobot's keys name it: two pictures uint8 (1, 3, S, S), state (1, 8), a sentence."""
    seen = torch.from_numpy(pictures(2, side, 5000 + number)).permute(0, 3, 1, 2).contiguous()
    state = torch.from_numpy(np.random.default_rng(number).normal(0, 0.3, (1, 8))).float()
    frame: dict[str, Any] = {key: seen[i : i + 1] for i, key in enumerate(keys.IMAGES)}
    return frame | {keys.STATE: state, keys.TASK: [SENTENCES[0]]}


def control(
    ours: dict[str, EFVLAPolicy], reference: ReferenceEFVLA, rounds: int, side: int, clock: Clock
) -> dict[str, list[float]]:
    """Milliseconds of control steps: two pictures in, one chunk out, full context; all in turn, round after round."""
    controllers = {
        "reference": ReferenceController(reference),
        "reference_words_kept": ReferenceController(reference, keep_words=True),
    }
    for policy in ours.values():
        policy.reset()
    times: dict[str, list[float]] = {name: [] for name in (*ours, *controllers)}
    context = reference.sizes.context
    for number in range(-2, rounds):
        frame = observation(number + 2, side)
        seen = torch.cat([frame[key] for key in keys.IMAGES])
        for name, controller in controllers.items():
            if number == -2:  # a long history, without the time it takes
                token = torch.randn(1, 1, reference.sizes.width)
                controller.remember([token] * context)
            began = clock()
            controller.step(seen, frame[keys.TASK][0], torch.zeros(reference.sizes.state))
            times[name].append(1e3 * (clock() - began))
        for name, policy in ours.items():
            if number == -2:
                fill_history(policy, context)
            began = clock()
            policy.predict_action_chunk(frame)
            times[name].append(1e3 * (clock() - began))
    return {name: values[2:] for name, values in times.items()}


def fill_history(policy: EFVLAPolicy, context: int) -> None:
    """Give an episode a full context, without encoding so many pictures."""
    state = policy.new_episode()
    state.tokens = list(torch.randn(context, policy.config.dim_model))
    policy._states = [state]


@torch.no_grad()
def deviation(original: EFVLAPolicy, copy: EFVLAPolicy, count: int, side: int) -> dict[str, float]:
    """How far a copy on another backend is from the original, over `count` frames.

    Returns:
        `action_deviation`: mean absolute difference of actions, in the dataset's [-1, 1]; `action_deviation_share`:
        the same over the standard deviation of the original's actions between frames and steps;
        `pointing_agreement`: share of words (all cameras) whose arg-max patch is the same; `feature_cosine`: mean
        cosine of patches.
    """
    frames = [observation(100 + number, side) for number in range(count)]
    batch: dict[str, Any] = {
        key: torch.cat([frame[key] for frame in frames]) for key in (*keys.IMAGES, keys.STATE)
    }
    batch[keys.TASK] = [SENTENCES[i % len(SENTENCES)] for i in range(count)]
    found = []
    for policy in (original, copy):
        policy.reset()
        chunks = policy.predict_action_chunk(batch)[..., :-1]  # the last is open or close
        looked = policy.attention(batch)
        words = looked.mask[:, None, None].expand(looked.weights.shape[:-2])
        where = looked.weights.flatten(-2).argmax(-1)[words]
        values = policy.picture_encoder.encode_image(batch[keys.IMAGES[0]]).values
        found.append((chunks, where, values))
    (chunks, where, values), (other_chunks, other_where, other_values) = found
    apart = float((chunks - other_chunks).abs().mean())
    return {
        "action_deviation": apart,
        "action_deviation_share": apart / max(float(chunks.std(dim=(0, 1)).mean()), 1e-9),
        "pointing_agreement": float((where == other_where).float().mean()),
        "feature_cosine": float((values * other_values).sum(-1).mean()),
    }


def act(side: int, batch: int, rounds: int, clock: Clock) -> dict[str, float]:
    """LeRobot's ACT: training samples a second (one frame each), and milliseconds of a control step."""
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    from fovea.policies.ef_vla.configuration_ef_vla import libero_inputs, libero_outputs

    config = ACTConfig(
        input_features=libero_inputs(side),
        output_features=libero_outputs(),
        pretrained_backbone_weights=None,
        device="cpu",
        **ACT_SIZES,
    )
    policy = ACTPolicy(config)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5, fused=True)
    one = observation(0, side)
    frame = {key: one[key].float() / 255 for key in keys.IMAGES} | {keys.STATE: one[keys.STATE]}
    seen: dict[str, Any] = {key: value.repeat(batch, *[1] * (value.ndim - 1)) for key, value in frame.items()}
    seen |= {
        keys.ACTION: torch.randn(batch, config.chunk_size, 7),
        f"{keys.ACTION}_is_pad": torch.zeros(batch, config.chunk_size, dtype=torch.bool),
    }
    steps, chunks = [], []
    policy.train()
    for _ in range(1 + max(2, rounds // 4)):
        began = clock()
        loss, _ = policy(seen)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()
        steps.append(clock() - began)
    with torch.inference_mode():
        for _ in range(1 + rounds):
            began = clock()
            policy.predict_action_chunk(frame)
            chunks.append(1e3 * (clock() - began))
    return {
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "samples_per_second": batch / float(np.median(steps[1:])),
        "control_ms": float(np.median(chunks[1:])),
    }
