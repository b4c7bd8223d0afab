"""The one trainer: any LeRobot policy whose `forward(batch)` returns (loss, parts), on accelerate.

Every step is a pure function of (seed, step, state): windows, dropout and learning rate depend on nothing else, so a
run that was killed and goes on from its last checkpoint gives the losses of a run that was not, and several processes
(`accelerate launch`) give those of one, whatever their number (`fovea.training.ranks`).
"""

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from fovea.data.files import locked, require_space, write_json
from fovea.data.windows import Window
from fovea.errors import FoveaError
from fovea.heap import keep_freed_memory
from fovea.progress import progress_bar
from fovea.threads import torch_threads
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
from fovea.training.faults import not_finite_error
from fovea.training.metrics import Means, MetricsFile, draw_learning_curve, read_metrics
from fovea.training.policies import describe_policy, parameter_groups, scaling
from fovea.training.ranks import Ranks, current_gpu
from fovea.training.schedule import ema_decay, learning_rate

REDRAW_SECONDS = 30.0


class Source(Protocol):
    """Where batches come from; `fovea.data.windows.WindowSource` is one."""

    span: int  # steps that a window covers

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
    records: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train `policy`, or go on with the run that `output_dir` holds.

    A policy whose loss is a mean over targets of which batches hold different numbers (padding) says how many there
    were as `parts["weight"]`, so that several processes can take the mean over all; otherwise every sample counts the
    same.

    Args:
        preprocessor, postprocessor: the policy's LeRobot pipelines; the first is applied to every batch, both are
        saved.
        source: training windows.
        output_dir: gets checkpoints/, metrics.jsonl and learning_curve.png.
        validation: windows of episodes that are not trained on.
        records: JSON files that the folder gets when its run begins, by name.

    Raises:
        FoveaError: if the folder holds a run with other settings, a checkpoint is damaged, the disk is full, another
            process trains there, or the loss or a gradient is not finite (the message names episode and frames).
    """
    out, files = Path(output_dir), records or {}
    return _Run(config, policy, preprocessor, postprocessor, source, out, validation, files, progress).go()


@dataclass
class _Run:
    config: TrainConfig
    policy: PreTrainedPolicy
    preprocessor: Any
    postprocessor: Any
    source: Source
    output_dir: Path
    validation: Source | None
    records: Mapping[str, Any]
    progress: bool
    ranks: Ranks = field(init=False)
    state: TrainingState = field(init=False)
    recipe: dict[str, Any] = field(init=False)
    processing: threading.Lock = field(default_factory=threading.Lock)
    drawn: float = field(default_factory=time.monotonic)

    def go(self) -> TrainResult:
        config = self.config
        keep_freed_memory()
        if config.batch_size < int(os.environ.get("WORLD_SIZE", "1")):
            raise FoveaError(
                f"expected a batch_size (over all processes) of at least their number, "
                f"{os.environ['WORLD_SIZE']}, got {config.batch_size}"
            )
        self.ranks = Ranks(cpu=str(self.policy.config.device) == "cpu")
        lock = locked(self.output_dir / ".lock", wait=False) if self.ranks.main else nullcontext()
        with lock, torch_threads(config.threads):
            return self._train()

    def _train(self) -> TrainResult:
        config, main = self.config, self.ranks.main
        optimizer = torch.optim.AdamW(
            parameter_groups(self.policy, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        model, optimizer = self.ranks.accelerator.prepare(self.policy, optimizer)
        self.state = TrainingState(self.policy, optimizer.optimizer, WeightAverage(self.policy))
        self.recipe = {  # as it is now: a policy may fill in its configuration later
            **config.recipe(),
            "policy": describe_policy(self.policy.config),
            "data": self.source.describe(),
            "scaling": scaling(self.preprocessor, self.postprocessor),
        }
        first, seconds, means = self._resume()
        metrics = MetricsFile(self.output_dir / "metrics.jsonl", first) if main else None
        if main and first < config.steps:
            require_space(self.output_dir, self.state.checkpoint_bytes(), "a checkpoint")
        began = time.monotonic() - seconds
        with progress_bar(visible=self.progress and main) as bar:
            job = bar.add_task("training", total=config.steps, completed=first, note="")
            for step, windows, batch in self._batches(first):
                means.add(self._update(model, optimizer, step, windows, batch))
                done = step + 1
                report: dict[str, Any] = {}
                if done % config.log_every == 0 or done == config.steps:
                    report |= {"step": done, **means.take(), "seconds": round(time.monotonic() - began, 3)}
                if main and self.validation and (done % config.validate_every == 0 or done == config.steps):
                    report |= {"step": done, **self._validate(self.validation)}
                if report and metrics is not None:
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
            for name, record in self.records.items() if self.ranks.main else ():
                write_json(self.output_dir / name, record)
            return 0, 0.0, Means()
        saved = load_progress(folder)
        check_recipe(folder, saved["recipe"], self.recipe, self._defaults())
        load_checkpoint(folder, self.state)
        return saved["step"], saved["seconds"], Means(saved["means"])

    def _defaults(self) -> dict[str, Any]:
        """A recipe's settings where nobody chose: what a run from before a setting existed was made with."""
        untold = {"scaling": self.recipe["scaling"], "data": {"labels": self.recipe["data"].get("labels")}}
        return {**TrainConfig().recipe(), "policy": describe_policy(type(self.policy.config)()), **untold}

    def _batches(self, first: int) -> Iterator[tuple[int, list[Window], dict[str, Any]]]:
        """(step, windows, preprocessed batch) from `first` on, prepared ahead in a thread."""
        config = self.config
        mine = self.ranks.mine(config.batch_size)

        def prepare(step: int) -> tuple[int, list[Window], dict[str, Any]]:
            windows = self.source.sample(config.seed, step, config.batch_size)[mine]
            return step, windows, self._prepared(self.source, windows)

        gpu = current_gpu()
        threads: dict[str, Any] = (
            {} if gpu is None else {"initializer": torch.cuda.set_device, "initargs": (gpu,)}
        )
        with ThreadPoolExecutor(config.loaders, **threads) as pool:
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
        """One update; returns the numbers to report, those of the whole batch."""
        config, accelerator = self.config, self.ranks.accelerator
        rate = learning_rate(
            step,
            peak=config.learning_rate,
            warmup=config.warmup_steps,
            steps=config.steps,
            final=config.final_learning_rate,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        model.train()
        self._seed(step)
        optimizer.zero_grad()
        with self.ranks.draws(config.batch_size):
            loss, parts = model(batch)
            numbers = {"loss": loss.item(), **_numbers(parts)}
            means, share = self.ranks.mean(numbers, numbers.pop("weight", float(len(windows))))
            if not math.isfinite(means["loss"]):
                raise self._not_finite("loss", means["loss"], step, windows, batch)
            accelerator.backward(loss * share if self.ranks.count > 1 else loss)
        norm = accelerator.clip_grad_norm_(self.policy.parameters(), config.clip_norm)
        if norm is not None and not torch.isfinite(norm):
            raise self._not_finite("gradient", norm.item(), step, windows, batch)
        optimizer.step()
        self.state.average.update(ema_decay(step, decay=config.ema_decay))
        return {**means, "learning_rate": rate, "gradient_norm": float(norm or 0.0)}

    def _seed(self, step: int) -> None:
        """The same in all processes: each draws for the whole batch and keeps what concerns its rows."""
        sequence = np.random.SeedSequence([self.config.seed, step])
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
                numbers = {"loss": loss.item(), **_numbers(parts)}
                means.add(numbers, weight=numbers.pop("weight", len(part)))
        return {f"validation_{name}": value for name, value in means.take().items()}

    def _not_finite(
        self, what: str, value: float, step: int, windows: list[Window], batch: dict[str, Any]
    ) -> FoveaError:
        def loss_alone(window: Window) -> Tensor:
            self._seed(step)
            return self.policy(self._prepared(self.source, [window]))[0]

        return not_finite_error(
            what,
            value,
            step,
            policy=self.policy,
            batch=batch,
            windows=windows,
            loss_alone=loss_alone,
            span=self.source.span,
            ranks=self.ranks,
            last=last_checkpoint(self.output_dir),
        )

    def _save(self, done: int, seconds: float, means: Means) -> None:
        if self.ranks.main:
            rest = {"recipe": self.recipe, "seconds": seconds, "means": means.state()}
            save_checkpoint(self.output_dir, done, self.state, rest, self.preprocessor, self.postprocessor)
            if done == self.config.steps or time.monotonic() - self.drawn > REDRAW_SECONDS:
                draw_learning_curve(self.output_dir / "metrics.jsonl", self.output_dir / "learning_curve.png")
                self.drawn = time.monotonic()
        self.ranks.wait()

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


def _numbers(parts: dict[str, Any] | None) -> dict[str, float]:
    """What of a policy's parts of the loss can be reported."""
    return {name: float(value) for name, value in (parts or {}).items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
