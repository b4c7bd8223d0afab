"""`fovea pretrain`: render the scenes that are missing, then train the encoder that ships on them."""

import json
from dataclasses import dataclass, fields

from fovea.sim import corpus
from fovea.training import pretrain
from fovea.training.pretrain import PretrainConfig


@dataclass(frozen=True)
class Config(PretrainConfig):
    """The training, and the scenes that it sees.

    Attributes:
        scenes: scenes of the corpus; those that are missing are rendered first.
        frames: moments of a scene; each gives one picture a camera.
        workers: processes that render, one core each.
    """

    scenes: int = corpus.CorpusConfig.scenes
    frames: int = corpus.CorpusConfig.frames
    workers: int = corpus.CorpusConfig.workers


def run(config: Config) -> None:
    """Both stages; each goes on where it was stopped."""
    corpus.run(
        corpus.CorpusConfig(
            out=config.corpus, scenes=config.scenes, frames=config.frames, workers=config.workers
        )
    )
    training = {field.name: getattr(config, field.name) for field in fields(PretrainConfig)}
    card = pretrain.run(PretrainConfig(**training))
    print(json.dumps(card["pointing"]["summary"], indent=2))
    print(f"Weights and model card: {config.output}. Use them as --policy.encoder tiny:{config.output}")
