"""Where every word of an instruction looks in every camera picture, for an encoder or for a trained policy.

Shape letters: B pictures, C cameras, M words, N patches on a grid of gh x gw, D joint width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fovea.data import keys
from fovea.encoders import Encoder, create_encoder
from fovea.encoders.words import split_words
from fovea.errors import FoveaError
from fovea.evaluation.actor import Actor, Observation
from fovea.sim.render import CAMERAS

CAMERA_NAMES = dict(zip(keys.IMAGES, ("agentview", "wrist"), strict=True))
SIM_CAMERAS = {name: CAMERAS[key.rpartition(".")[2]] for key, name in CAMERA_NAMES.items()}
"""What the cameras are called here -> LIBERO's name."""

Maps = Mapping[str, NDArray[np.float32]]
"""Camera -> (M, gh, gw): each word's weights over the patches, which sum to one; NaN for a word that is not read."""


class WordMaps(Protocol):
    """Something whose words look at patches.

    Attributes:
        name: of the encoder or the policy.
        tap: where its patches are read.
        identity: its maps are a function of this and of the observation.
        image_size: side in pixels of the pictures it is to be shown.
    """

    name: str
    tap: str
    identity: str
    image_size: int

    @property
    def temperatures(self) -> dict[str, float]:
        """tau of the softmax over patches, by camera."""
        ...

    def look(self, observation: Observation) -> Maps:
        """The maps of one observation of `LiberoEnv.observe`, for the words of `split_words(its task)`."""
        ...


class EncoderMaps:
    """softmax over patches of word . patch / tau, with the temperature of the encoder's own training (EF-VLA, eq. 1).

    Args:
        encoder: any frozen encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name, self.tap, self.identity = encoder.name, encoder.tap, encoder.identity
        self.image_size = encoder.image_size
        self._spans = _SpanMemory(encoder)

    @property
    def temperatures(self) -> dict[str, float]:
        return dict.fromkeys(CAMERA_NAMES.values(), self.encoder.temperature)

    @torch.no_grad()
    def look(self, observation: Observation) -> Maps:
        words = self.encoder.encode_text([observation[keys.TASK]]).values[0]
        pictures = np.stack([observation[key] for key in CAMERA_NAMES])
        patches = self.encoder.encode_image(torch.from_numpy(pictures).permute(0, 3, 1, 2)).values
        weights = (torch.einsum("md,bnd->bmn", words, patches) / self.encoder.temperature).softmax(-1)
        maps = weights.unflatten(-1, self.encoder.grid).float().cpu().numpy()
        spans = self._spans(observation[keys.TASK])
        return {name: _by_word(maps[i], spans) for i, name in enumerate(CAMERA_NAMES.values())}


class PolicyMaps:
    """The word-to-patch weights that a trained EF-VLA uses: after its learned temperature, one a camera.

    They come out of the policy's own fusion module. A word that the policy does not see (beyond `word_positions`) has
    no map.

    Args:
        actor: a loaded checkpoint.
        name: what tables call it.

    Raises:
        FoveaError: the policy has no word-to-patch maps.
    """

    def __init__(self, actor: Actor, name: str) -> None:
        if not actor.has_maps:
            raise FoveaError(
                f"{name} is a policy of type {actor.title}, which has no word-to-patch maps; give an EF-VLA "
                "checkpoint, or look at the attention of its layers with `fovea attend`"
            )
        self.actor, self.name = actor, name
        self.identity, self.image_size = actor.identity, actor.image_size
        self.tap = str(actor.policy.encoder.tap)
        self._spans, self._names = _SpanMemory(actor.policy.encoder), camera_names(actor)

    @property
    def temperatures(self) -> dict[str, float]:
        policy = self.actor.policy
        scales = policy.model.fusion.scale.detach().flatten().tolist()
        return {self._names[key]: 1 / s for key, s in zip(policy.config.camera_keys, scales, strict=True)}

    def look(self, observation: Observation) -> Maps:
        return self.look_at([observation])[0]

    @torch.no_grad()
    def look_at(self, observations: Sequence[Observation]) -> list[Maps]:
        """The maps of several observations, in one call of the policy."""
        where = self.actor.policy.attention(self.actor.batch(observations))
        weights = where.weights[:, 0].float().cpu().numpy()  # (B, C, M, gh, gw) over token positions
        found: list[Maps] = []
        for maps, seen, observation in zip(weights, where.mask.cpu().numpy(), observations, strict=True):
            spans = [
                [i for i in run if i < len(seen) and seen[i]] for run in self._spans(observation[keys.TASK])
            ]
            found.append({self._names[key]: _by_word(maps[i], spans) for i, key in enumerate(where.cameras)})
        return found


def camera_names(actor: Actor) -> dict[str, str]:
    """What the cameras are called here, by the keys that a policy knows them under (its preprocessor may rename)."""
    renamed: dict[str, str] = {}
    for step in getattr(actor.preprocessor, "steps", ()):
        renamed |= getattr(step, "rename_map", {})
    return {renamed.get(key, key): name for key, name in CAMERA_NAMES.items()}


def encoder_maps(name: str, tap: str | None) -> EncoderMaps:
    """The maps of a registered encoder."""
    return EncoderMaps(create_encoder(name, tap=tap))


def policy_maps(checkpoint: Path) -> PolicyMaps:
    """The maps of a checkpoint."""
    return PolicyMaps(Actor.load(checkpoint), str(checkpoint))


def noun_map(maps: NDArray[np.float32], words: Sequence[int]) -> NDArray[np.float32] | None:
    """Where a noun looks: the mean over those of its words that are read, (M, gh, gw) -> (gh, gw); None without one."""
    read = [maps[i] for i in words if np.isfinite(maps[i]).all()]
    return np.mean(read, axis=0, dtype=np.float32) if read else None


def word_spans(encoder: Encoder, sentence: str) -> list[list[int]]:
    """The token positions of every word of a sentence; empty for a word beyond the encoder's last position.

    An encoder may split a word into pieces ("ramekin" is three in CLIP). They are found by counting the tokens of
    the sentence's beginnings, which asks nothing of an encoder but that it tokenises words one by one.
    """
    ends, begins, position = [], [], 0
    for word in split_words(sentence):
        begins.append(sentence.lower().index(word, position))
        position = begins[-1] + len(word)
        ends.append(position)
    heads = sorted({sentence[:place].strip() for place in [*begins, *ends]} - {""})
    if not heads:
        return []
    with torch.no_grad():
        counts = dict(zip(heads, encoder.encode_text(heads).mask.sum(1).tolist(), strict=True))
        positions = encoder.encode_text([sentence]).mask[0].nonzero().flatten().tolist()
    counts[""] = 0
    return [
        positions[counts[sentence[:begin].strip()] : counts[sentence[:end].strip()]]
        for begin, end in zip(begins, ends, strict=True)
    ]


class _SpanMemory:
    """`word_spans`, each sentence once."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._known: dict[str, list[list[int]]] = {}

    def __call__(self, sentence: str) -> list[list[int]]:
        if sentence not in self._known:
            self._known[sentence] = word_spans(self.encoder, sentence)
        return self._known[sentence]


def _by_word(maps: NDArray[np.float32], spans: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Maps of tokens (positions, gh, gw) -> of words (M, gh, gw), each the mean over its tokens."""
    empty = np.full(maps.shape[1:], np.nan, np.float32)
    return np.stack([maps[list(span)].mean(0) if span else empty for span in spans])


def describe(maps: WordMaps) -> dict[str, Any]:
    """A variant for JSON."""
    taus = {camera: round(tau, 5) for camera, tau in maps.temperatures.items()}
    return {"name": maps.name, "tap": maps.tap, "temperature": taus}
