"""The one trainer: any LeRobot policy whose `forward(batch)` returns (loss, parts), on accelerate.

Every step is a pure function of (seed, step, state): windows, dropout and learning rate depend on nothing else, so a
run that was killed and goes on from its last checkpoint gives the losses of a run that was not.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import draccus
import numpy as np
import torch
from accelerate import Accelerator
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from fovea.data.windows import Window
from fovea.errors import FoveaError
from fovea.progress import progress_bar
from fovea.training.checkpoint import (
    TrainingState,
    check_recipe,
    last_checkpoint,
    load_checkpoint,
    load_progress,
    save_checkpoint,
)
from fovea.training.config import TrainConfig, TrainResult
from fovea.training.ema import WeightAverage
from fovea.training.metrics import Means, MetricsFile, draw_learning_curve, read_metrics
from fovea.training.schedule import ema_decay, learning_rate

REDRAW_SECONDS = 30.0


class Source(Protocol):
    """Where batches come from; `fovea.data.windows.WindowSource` is one."""

    context: int

    def sample(self, seed: int, step: int, count: int) -> list[Window]: ...

    def spread(self, count: int) -> list[Window]: ...

    def batch(self, windows: Sequence[Window]) -> dict[str, Any]: ...

    def describe(self) -> dict[str, Any]: ...


def train(
    config: TrainConfig,
    policy: PreTrainedPolicy,
    preprocessor: Any,
    postprocessor: Any,
    source: Source,
    output_dir: str | Path,
    *,
    validation: Source | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train `policy`, or go on with the run that `output_dir` holds.

    Args:
        preprocessor, postprocessor: the policy's LeRobot pipelines; the first is applied to every batch, both are
        saved.
        source: training windows.
        output_dir: gets checkpoints/, metrics.jsonl and learning_curve.png.
        validation: windows of episodes that are not trained on.

    Raises:
        FoveaError: if the folder holds a run with other settings, a checkpoint is damaged, or the loss or a gradient is
            not finite (the message names episode and frames).
    """
    return _Run(
        config, policy, preprocessor, postprocessor, source, Path(output_dir), validation, progress
    ).go()


@dataclass
class _Run:
    config: TrainConfig
    policy: PreTrainedPolicy
    preprocessor: Any
    postprocessor: Any
    source: Source
    output_dir: Path
    validation: Source | None
    progress: bool
    accelerator: Accelerator = field(init=False)
    state: TrainingState = field(init=False)
    recipe: dict[str, Any] = field(init=False)
    processing: threading.Lock = field(default_factory=threading.Lock)
    drawn: float = field(default_factory=time.monotonic)

    def go(self) -> TrainResult:
        config = self.config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(cpu=str(self.policy.config.device) == "cpu")
        optimizer = torch.optim.AdamW(
            parameter_groups(self.policy, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        model, optimizer = self.accelerator.prepare(self.policy, optimizer)
        self.state = TrainingState(self.policy, optimizer.optimizer, WeightAverage(self.policy))
        self.recipe = {  # as it is now: a policy may fill in its configuration later
            **config.recipe(),
            "policy": describe_policy(self.policy),
            "data": self.source.describe(),
        }
        first, seconds, means = self._resume()
        metrics = MetricsFile(self.output_dir / "metrics.jsonl", first)
        began = time.monotonic() - seconds
        with progress_bar(visible=self.progress and self.accelerator.is_main_process) as bar:
            job = bar.add_task("training", total=config.steps, completed=first, note="")
            for step, windows, batch in self._batches(first):
                means.add(self._update(model, optimizer, step, windows, batch))
                done = step + 1
                report: dict[str, Any] = {}
                if done % config.log_every == 0 or done == config.steps:
                    report |= {"step": done, **means.take(), "seconds": round(time.monotonic() - began, 3)}
                if self.validation and (done % config.validate_every == 0 or done == config.steps):
                    report |= {"step": done, **self._validate(self.validation)}
                if report and self.accelerator.is_main_process:
                    metrics.write(report)
                    note = f"loss {report['loss']:.4f}" if "loss" in report else ""
                    bar.update(job, note=note) if note else None
                if done % config.save_every == 0 or done == config.steps:
                    self._save(done, time.monotonic() - began, means)
                bar.advance(job)
        return self._result(first)

    def _resume(self) -> tuple[int, float, Means]:
        folder = last_checkpoint(self.output_dir)
        if folder is None:
            return 0, 0.0, Means()
        saved = load_progress(folder)
        check_recipe(folder, saved["recipe"], self.recipe)
        load_checkpoint(folder, self.state)
        return saved["step"], saved["seconds"], Means(saved["means"])

    def _batches(self, first: int) -> Iterator[tuple[int, list[Window], dict[str, Any]]]:
        """(step, windows, preprocessed batch) from `first` on, prepared ahead in a thread."""
        config, ranks = self.config, self.accelerator.num_processes

        def prepare(step: int) -> tuple[int, list[Window], dict[str, Any]]:
            windows = self.source.sample(config.seed, step, config.batch_size)[
                self.accelerator.process_index :: ranks
            ]
            return step, windows, self._prepared(self.source, windows)

        with ThreadPoolExecutor(1) as pool:
            ahead: list[Future] = []
            for step in range(first, config.steps):
                while len(ahead) < config.prefetch and step + len(ahead) < config.steps:
                    ahead.append(pool.submit(prepare, step + len(ahead)))
                yield ahead.pop(0).result()

    def _prepared(self, source: Source, windows: list[Window]) -> dict[str, Any]:
        batch = source.batch(windows)
        with self.processing:  # LeRobot's pipelines keep state while they run
            return self.preprocessor(batch)

    def _update(
        self, model: Any, optimizer: Any, step: int, windows: list[Window], batch: dict[str, Any]
    ) -> dict[str, float]:
        """One update; returns the numbers to report."""
        config = self.config
        rate = learning_rate(
            step,
            peak=config.learning_rate,
            warmup=config.warmup_steps,
            steps=config.steps,
            final=config.final_learning_rate,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        self._seed(step)
        loss, parts = model(batch)
        if not torch.isfinite(loss):
            raise self._not_finite("loss", loss.item(), step, windows, batch)
        optimizer.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), config.clip_norm)
        if norm is not None and not torch.isfinite(norm):
            raise self._not_finite("gradient", norm.item(), step, windows, batch)
        optimizer.step()
        self.state.average.update(ema_decay(step, decay=config.ema_decay))
        numbers = {name: float(value) for name, value in (parts or {}).items() if _is_number(value)}
        return {**numbers, "loss": loss.item(), "learning_rate": rate, "gradient_norm": float(norm or 0.0)}

    def _seed(self, step: int) -> None:
        sequence = np.random.SeedSequence([self.config.seed, step, self.accelerator.process_index])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    @torch.no_grad()
    def _validate(self, source: Source) -> dict[str, float]:
        """Loss of the averaged weights on windows spread evenly over the validation episodes."""
        windows, size, means = source.spread(self.config.validation_windows), self.config.batch_size, Means()
        self.policy.eval()
        self._seed(0)
        with self.state.average.applied():
            for first in range(0, len(windows), size):
                part = windows[first : first + size]
                loss, parts = self.policy(self._prepared(source, part))
                numbers = {name: float(value) for name, value in (parts or {}).items() if _is_number(value)}
                means.add({**numbers, "loss": loss.item()}, weight=len(part))
        return {f"validation_{name}": value for name, value in means.take().items()}

    @torch.no_grad()
    def _not_finite(
        self, what: str, value: float, step: int, windows: list[Window], batch: dict[str, Any]
    ) -> FoveaError:
        """The message that names the windows at fault: those whose own loss is not finite, or else all."""
        columns = [name for name, x in batch.items() if isinstance(x, Tensor) and not _finite(x)]
        guilty = []
        for window in windows:
            self._seed(step)
            loss, _ = self.policy(self._prepared(self.source, [window]))
            if not torch.isfinite(loss):
                guilty.append(window)
        if not all(_finite(parameter) for parameter in self.policy.parameters()):
            cause = "the weights themselves are not finite: lower the learning rate"
        elif columns:
            cause = f"{', '.join(columns)} of the batch holds NaN or infinity: remove that episode or record it again"
        else:
            cause = "the inputs are finite: lower the learning rate, or look at that sample"
        names = "; ".join(window.describe(self.source.context) for window in (guilty or windows)[:8])
        last = last_checkpoint(self.output_dir)
        kept = f" The last good state is {last}." if last else ""
        return FoveaError(f"{what} became {value} at step {step + 1}: {names}; {cause}.{kept}")

    def _save(self, done: int, seconds: float, means: Means) -> None:
        if self.accelerator.is_main_process:
            rest = {"recipe": self.recipe, "seconds": seconds, "means": means.state()}
            save_checkpoint(self.output_dir, done, self.state, rest, self.preprocessor, self.postprocessor)
            if done == self.config.steps or time.monotonic() - self.drawn > REDRAW_SECONDS:
                draw_learning_curve(self.output_dir / "metrics.jsonl", self.output_dir / "learning_curve.png")
                self.drawn = time.monotonic()
        self.accelerator.wait_for_everyone()

    def _result(self, resumed_from: int) -> TrainResult:
        checkpoint = last_checkpoint(self.output_dir)
        assert checkpoint is not None
        path = self.output_dir / "metrics.jsonl"
        entries = read_metrics(path)
        losses = [entry["loss"] for entry in entries if "loss" in entry]
        validations = [entry["validation_loss"] for entry in entries if "validation_loss" in entry]
        saved = load_progress(checkpoint)
        return TrainResult(
            checkpoint=checkpoint,
            steps=saved["step"],
            resumed_from=resumed_from,
            seconds=saved["seconds"],
            loss=losses[-1] if losses else float("nan"),
            validation_loss=validations[-1] if validations else None,
            metrics=path,
            curve=self.output_dir / "learning_curve.png",
        )


def describe_policy(policy: PreTrainedPolicy) -> dict[str, Any]:
    """The policy's type and configuration, but for where it runs and where it is uploaded."""
    free = ("device", "use_amp", "push_to_hub", "repo_id", "private", "tags", "license")
    fields = {name: value for name, value in draccus.encode(policy.config).items() if name not in free}
    return {"type": policy.config.type, **fields}


def parameter_groups(policy: PreTrainedPolicy, weight_decay: float) -> list[dict[str, Any]]:
    """The policy's own groups where it has some; else matrices with weight decay, scalars and vectors without."""
    own = policy.get_optim_params()
    if isinstance(own, list) and own and isinstance(own[0], dict):
        return [{"weight_decay": weight_decay, **group} for group in own]
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def _finite(values: Tensor) -> bool:
    return not values.is_floating_point() or bool(torch.isfinite(values).all())
