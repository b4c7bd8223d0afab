"""`fovea pretrain`: the tiny encoder from scratch on a corpus of rendered scenes.

A fixed number of steps from a fixed seed: the first part on crops around objects (a quarter of the pixels, several
times the pictures a second), the rest on whole pictures. State is one safetensors file that is replaced as a
whole, so a killed run goes on where its last checkpoint was and ends with the same weights.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from fovea import __version__
from fovea.data.files import atomic_write, sha256_file, write_json
from fovea.data.phrases import Lexicon
from fovea.data.scene_corpus import SceneCorpus
from fovea.encoders.tiny import TinyConfig, TinyEncoder, create_tiny
from fovea.errors import FoveaError
from fovea.evaluation.pointing import catalogue_lexicon, pointing, write_card
from fovea.policies.checked import check_finite
from fovea.progress import progress_bar
from fovea.threads import torch_threads
from fovea.training.photometric import augment
from fovea.training.pretrain_data import Batch, BatchSource
from fovea.training.pretrain_loss import PretrainLoss, TextBatch
from fovea.training.pretrain_state import TrainingState

# fields that may differ between a run and its continuation
_FREE = ("corpus", "output", "threads", "save_every", "evaluate_every", "evaluate_pictures")


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run.

    Attributes:
        corpus: folder of the scene corpus.
        output: folder of the run; a run that was stopped there goes on.
        tap: where patches are read, in training and ever after.
        seed: of weights, batches and augmentation.
        steps: optimiser steps in all.
        crop: side of the crops in pixels.
        crop_share: share of the steps that see crops.
        crop_batch, full_batch: pictures a step, in either part.
        sentences: sentences a step.
        words: words and sentences a step that are pointed at patches.
        learning_rate: peak; linear warm-up, cosine to a hundredth.
        warmup: steps.
        weight_decay: on matrices only.
        contrast: "siglip" or "clip".
        presence_weight: weight of the sentence-picture term.
        image_depth: transformer blocks of the picture tower.
        tower_width: width of both towers.
        limit: read at most this many pictures (None: all).
        threads: torch threads.
        save_every: steps between checkpoints.
        evaluate_every: steps between held-out measurements.
        evaluate_pictures: held-out pictures of such a measurement.
    """

    corpus: Path = Path("outputs/corpus")
    output: Path = Path("outputs/pretrain")
    tap: str = "out"
    seed: int = 0
    steps: int = 2400
    crop: int = 64
    crop_share: float = 0.8
    crop_batch: int = 64
    full_batch: int = 32
    sentences: int = 64
    words: int = 160
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    contrast: str = "siglip"
    presence_weight: float = 0.5
    image_depth: int = 4
    tower_width: int = 128
    limit: int | None = None
    threads: int = 1
    save_every: int = 200
    evaluate_every: int = 400
    evaluate_pictures: int = 240

    def __post_init__(self) -> None:
        if self.contrast not in ("siglip", "clip"):
            raise FoveaError(f"expected contrast siglip or clip, got {self.contrast!r}")
        for name in (
            "steps",
            "crop_batch",
            "full_batch",
            "sentences",
            "words",
            "warmup",
            "threads",
            "save_every",
            "evaluate_every",
            "evaluate_pictures",
        ):
            if getattr(self, name) < 1:
                raise FoveaError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise FoveaError(f"expected limit to be at least 1, or none for all pictures, got {self.limit}")
        check_finite(self)
        for name in ("seed", "weight_decay", "presence_weight"):
            if getattr(self, name) < 0:
                raise FoveaError(f"expected {name} of at least 0, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise FoveaError(f"expected learning_rate above 0, got {self.learning_rate}")
        if not 0 <= self.crop_share <= 1:
            raise FoveaError(f"expected crop_share between 0 and 1, got {self.crop_share}")
        side = self.encoder().image_size
        if self.crop % 8 or not 8 <= self.crop <= side:
            raise FoveaError(
                f"expected crop to be a multiple of the patch size 8, at most the picture's {side}, got {self.crop}"
            )

    def encoder(self) -> TinyConfig:
        """The encoder that is trained."""
        return TinyConfig(tap=self.tap, image_depth=self.image_depth, tower_width=self.tower_width)

    def recipe(self) -> dict[str, Any]:
        """The fields that decide the weights."""
        return {key: value for key, value in asdict(self).items() if key not in _FREE}

    @classmethod
    def tiny(cls, **changes: Any) -> "PretrainConfig":
        """A toy for tests."""
        sizes = {
            "steps": 60, "crop_batch": 16, "full_batch": 8, "sentences": 16, "words": 48, "warmup": 10,
            "image_depth": 2, "tower_width": 32, "save_every": 20, "evaluate_every": 60, "evaluate_pictures": 16,
        }  # fmt: skip
        return cls(**{**sizes, **changes})


def run(config: PretrainConfig, lexicon: Lexicon | None = None) -> dict[str, Any]:
    """Train (or go on training), then write weights, model card and heat maps into `config.output`.

    Args:
        config: the run.
        lexicon: names of the corpus's categories; None takes LIBERO's catalogue.

    Returns:
        The model card's numbers, as in model_card.json.

    Raises:
        FoveaError: the corpus is unreadable, the folder holds another run, or the loss is no longer finite.
    """
    with torch_threads(config.threads):
        return _run(config, lexicon)


def _run(config: PretrainConfig, lexicon: Lexicon | None) -> dict[str, Any]:
    corpus = SceneCorpus(config.corpus, config.limit)
    corpus.split(held_out=True)  # too few scenes are refused before, not after the training
    lexicon = lexicon or catalogue_lexicon(corpus.categories)
    torch.manual_seed(config.seed)
    encoder = TinyEncoder(config.encoder(), lexicon.vocabulary())
    loss = PretrainLoss(encoder.width, config.contrast, config.presence_weight)
    state = TrainingState(encoder, loss, config.recipe(), config.learning_rate, config.weight_decay)
    checkpoint, log = config.output / "state.safetensors", config.output / "metrics.jsonl"
    config.output.mkdir(parents=True, exist_ok=True)
    if checkpoint.is_file():
        state.load(checkpoint)
    _keep_lines(log, state.step)
    _train(config, corpus, lexicon, state, checkpoint, log)
    export(config, corpus, state.encoder, state.loss, state.step, state.seconds)
    # measured as shipped: half-precision weights, read back from the folder
    shipped = create_tiny(f"tiny:{config.output}").freeze()
    return write_card(config.output, shipped, corpus, lexicon)


def _train(
    config: PretrainConfig,
    corpus: SceneCorpus,
    lexicon: Lexicon,
    state: TrainingState,
    checkpoint: Path,
    log: Path,
) -> None:
    source = BatchSource(corpus, lexicon, config.seed, config.sentences, config.words)
    started, before = time.monotonic(), state.seconds
    with progress_bar() as progress:
        task = progress.add_task(f"pretrain {config.tap}", total=config.steps, completed=state.step, note="")
        while state.step < config.steps:
            terms = _step(config, source, state)
            state.step += 1
            state.seconds = before + time.monotonic() - started
            last = state.step == config.steps
            if not math.isfinite(terms["loss"]):
                raise FoveaError(
                    f"the loss is {terms['loss']} at step {state.step}; the last checkpoint is kept: "
                    "lower learning_rate in a new output folder"
                )
            if state.step % config.evaluate_every == 0 or last:
                terms |= _held_out(config, corpus, lexicon, state.encoder)
            if state.step % 20 == 0 or "pointing_nouns" in terms:
                record = {"step": state.step, "seconds": round(state.seconds, 1)}
                record |= {k: round(v, 5) for k, v in terms.items()}
                with open(log, "a") as file:
                    file.write(json.dumps(record) + "\n")
            progress.update(task, advance=1, note=f"loss {terms['loss']:.3f}")
            if state.step % config.save_every == 0 or last:
                state.save(checkpoint)


def _step(config: PretrainConfig, source: BatchSource, state: TrainingState) -> dict[str, float]:
    """One optimiser step; everything random in it comes from (seed, step)."""
    crops = state.step < round(config.crop_share * config.steps)
    size, crop = (config.crop_batch, config.crop) if crops else (config.full_batch, None)
    batch = source.draw(state.step, size, crop)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
    encoder = state.encoder
    pixels = encoder.normalise(augment(batch.pixels, generator))
    patches = encoder.image(pixels, config.tap, batch.cells)
    terms = state.loss(patches, batch.cover, encode_sentences(encoder, batch))
    progress = state.step / config.steps
    rate = min(1, (state.step + 1) / config.warmup) * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
    for group in state.optimiser.param_groups:
        group["lr"] = config.learning_rate * rate * group["haste"]
    state.optimiser.zero_grad()
    terms["loss"].backward()
    norm = nn.utils.clip_grad_norm_(state.names.values(), 1.0)
    state.optimiser.step()
    values = {key: value.item() for key, value in terms.items()}
    return values | {"scale": state.loss.scale.item(), "gradient": norm.item()}


def encode_sentences(encoder: TinyEncoder, batch: Batch) -> TextBatch:
    """Run the text tower and pick out what the losses need."""
    ids = encoder.tokenizer([a.sentence for a in batch.sentences])
    length = int(ids.mask.sum(1).max())
    values = encoder.text(ids.words[:, :length], ids.pieces[:, :length])  # (S, 1 + M, D)
    mention = torch.zeros(values.shape[:2])
    for row, aligned in enumerate(batch.sentences):
        mention[row, [p + 1 for p in aligned.mention if p < length]] = 1
    phrases = F.normalize(torch.einsum("sm,smd->sd", mention, values), dim=-1)
    sentence, position = batch.picked.T
    kept: Tensor = position <= length
    return TextBatch(
        sentences=values[:, 0],
        phrases=phrases,
        targets=batch.targets,
        words=values[sentence[kept], position[kept]],
        owners=batch.owners[kept],
    )


def _held_out(
    config: PretrainConfig, corpus: SceneCorpus, lexicon: Lexicon, encoder: TinyEncoder
) -> dict[str, float]:
    rows = corpus.split(held_out=True)
    rows = rows[:: max(1, len(rows) // config.evaluate_pictures)]
    scores = pointing(encoder.eval(), corpus, lexicon, rows)
    encoder.train()
    return {f"pointing_{form}": scores[form]["all"]["accuracy"] for form in scores}


def export(
    config: PretrainConfig,
    corpus: SceneCorpus,
    encoder: TinyEncoder,
    loss: PretrainLoss,
    step: int,
    seconds: float,
) -> None:
    """Write tiny.safetensors (half precision) and tiny.json, the two files that `tiny` loads."""
    weights = config.output / "tiny.safetensors"
    with atomic_write(weights) as file:
        file.write(save({key: value.half().contiguous() for key, value in encoder.state_dict().items()}))
    write_json(
        config.output / "tiny.json",
        {
            "config": asdict(encoder.config),
            "temperature": round(1 / loss.scale.item(), 6),
            "vocabulary": list(encoder.tokenizer.vocabulary),
            "provenance": {
                "fovea": __version__,
                "torch": torch.__version__,
                "steps": step,
                "seconds": round(seconds),
                "training": config.recipe(),
                "corpus": corpus.record | {"pictures": len(corpus)},
                "weights_sha256": sha256_file(weights),
            },
        },
    )


def _keep_lines(log: Path, step: int) -> None:
    """Drop measurements that came after the checkpoint: they will be made again."""
    if not log.is_file():
        return
    lines = [
        line
        for line in log.read_text().splitlines()
        if line.endswith("}") and json.loads(line)["step"] <= step
    ]
    with atomic_write(log) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def main(arguments: list[str] | None = None) -> None:
    """`python -m fovea.training.pretrain --corpus DIR --output DIR --tap attn_qk --steps N`: every field is a flag."""
    parser = argparse.ArgumentParser(prog="fovea pretrain", description=__doc__)
    kinds = {"int": int, "float": float, "str": str, "Path": Path, "int | None": int}
    for option in fields(PretrainConfig):
        name = option.type if isinstance(option.type, str) else getattr(option.type, "__name__", "int | None")
        parser.add_argument(
            f"--{option.name.replace('_', '-')}", type=kinds.get(name, int), default=option.default
        )
    card = run(replace(PretrainConfig(), **vars(parser.parse_args(arguments))))
    print(json.dumps(card["pointing"]["summary"], indent=2))


if __name__ == "__main__":
    main()
