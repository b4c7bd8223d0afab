"""Does the encoder point at what it is told? Held-out pointing, zero-shot recognition, heat maps, model card.

A query points at the patch with the highest similarity. It is asked where its object is visible (at least one
patch's worth of pixels) and is right if the object covers a quarter of that patch.

Shape letters: B pictures, N patches, Q queries, K categories, D joint width.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fovea.data.phrases import Lexicon, Naming
from fovea.data.scene_corpus import SceneCorpus, coverage
from fovea.encoders.base import Encoder

FORMS = ("nouns", "colours", "colours_among_variants", "instructions", "words")
_ON_OBJECT = 0.25
_BATCH = 32


@dataclass(frozen=True)
class _Query:
    """One question: `vector` should point at `types` wherever `kind` is visible."""

    form: str
    kind: str
    vector: Tensor
    types: frozenset[str]
    rivals: frozenset[str] = frozenset()


def catalogue_lexicon(categories: Sequence[str]) -> Lexicon:
    """Names of LIBERO's object types from `fovea.sim.catalogue`; a type it lacks is called by its own name."""
    from fovea.sim.catalogue import CATALOGUE

    names = {}
    for kind in categories:
        entry = CATALOGUE.get(kind)
        if entry is None:
            names[kind] = Naming((kind.replace("_", " "),))
        else:
            names[kind] = Naming(tuple(entry.nouns), tuple(entry.colours), entry.kind)
    return Lexicon(names)


@torch.no_grad()
def pointing(encoder: Encoder, corpus: SceneCorpus, lexicon: Lexicon, rows: np.ndarray) -> dict[str, Any]:
    """Measure pointing accuracy.

    Args:
        encoder: any encoder.
        corpus: labelled pictures.
        lexicon: names of its categories.
        rows: which pictures.

    Returns:
        form -> camera (and "all") -> {"accuracy", "count", "objects": {type: {"accuracy", "count"}}}. Forms:
        `nouns` the words of the plain name; `colours` the words of colour + name; `colours_among_variants` the
        same where the picture also shows the object in another colour; `instructions` the whole-sentence
        embedding; `words` every single word of an instruction.
    """
    queries = _queries(encoder, corpus.categories, lexicon)
    flags = _flags([q.types for q in queries], corpus.categories)
    rivals = _flags([q.rivals for q in queries], corpus.categories)
    kinds = np.array([corpus.categories.index(q.kind) for q in queries])
    vectors = torch.stack([q.vector for q in queries])
    among = np.array([q.form == "colours_among_variants" for q in queries])
    asked = np.zeros((len(corpus.cameras), len(queries)), np.int64)
    right = np.zeros_like(asked)
    for part in np.array_split(rows, max(1, -(-len(rows) // _BATCH))):
        patches, cover = _look(encoder, corpus, part)
        best = torch.einsum("bnd,qd->bqn", patches, vectors).argmax(-1).numpy()  # (B, Q)
        amount = cover.sum(1)
        wanted = cover @ flags.T  # (B, N, Q)
        hit = np.take_along_axis(wanted, best[:, None, :], 1)[:, 0] >= _ON_OBJECT
        ask = (amount[:, kinds] >= 1) & (cover.max(1)[:, kinds] >= _ON_OBJECT)
        # a word that is owned by another object than the sentence's own is asked where that one is visible
        ask &= (amount @ flags.T >= 1) & (wanted.max(1) >= _ON_OBJECT)
        ask &= ~among | (amount @ rivals.T >= 1)
        for camera in range(len(corpus.cameras)):
            mine = corpus.camera[part] == camera
            asked[camera] += ask[mine].sum(0)
            right[camera] += (ask & hit)[mine].sum(0)
    return {form: _tables(form, queries, corpus, asked, right) for form in FORMS}


def _tables(
    form: str, queries: list[_Query], corpus: SceneCorpus, asked: np.ndarray, right: np.ndarray
) -> dict[str, Any]:
    def score(r: int, a: int) -> dict[str, Any]:
        return {"accuracy": round(float(r / a), 4) if a else 0.0, "count": int(a)}

    tables = {}
    mine = np.array([q.form == form for q in queries])
    for name, cameras in [
        ("all", slice(None)),
        *((c, slice(i, i + 1)) for i, c in enumerate(corpus.cameras)),
    ]:
        a, r = asked[cameras].sum(0), right[cameras].sum(0)
        objects = {}
        for kind in corpus.categories:
            its = mine & np.array([q.kind == kind for q in queries])
            if a[its].sum():
                objects[kind] = score(r[its].sum(), a[its].sum())
        tables[name] = score(r[mine].sum(), a[mine].sum()) | {"objects": objects}
    return tables


def _queries(encoder: Encoder, categories: Sequence[str], lexicon: Lexicon) -> list[_Query]:
    asked: list[tuple[str, str, str]] = []
    for kind in categories:
        noun = lexicon.nouns(kind)[0]
        asked.append(("nouns", kind, f"pick up the {noun}"))
        for phrase in lexicon.coloured(kind)[:1]:
            asked.append(("colours", kind, f"pick up the {phrase}"))
        asked.append(("instructions", kind, f"pick up the {noun} and place it in the basket"))
    sentences = [sentence for _, _, sentence in asked]
    words, whole = encoder.encode_text(sentences).values.cpu(), encoder.embed_text(sentences).cpu()
    queries = []
    for row, (form, kind, sentence) in enumerate(asked):
        aligned = lexicon.align(sentence)
        assert aligned is not None
        if form == "instructions":
            queries.append(_Query(form, kind, whole[row], aligned.target))
            for position, owner in enumerate(aligned.owners):
                queries.append(_Query("words", kind, words[row, position], owner))
            continue
        vector = F.normalize(words[row, list(aligned.mention)].mean(0), dim=-1)
        queries.append(_Query(form, kind, vector, aligned.target))
        if form == "colours":
            same_noun = lexicon.align(lexicon.nouns(kind)[0])
            rivals = (same_noun.target if same_noun else frozenset()) - aligned.target
            if rivals:
                queries.append(_Query("colours_among_variants", kind, vector, aligned.target, rivals))
    return queries


@torch.no_grad()
def zero_shot(encoder: Encoder, corpus: SceneCorpus, lexicon: Lexicon, rows: np.ndarray) -> dict[str, Any]:
    """Recognise objects and whole pictures by the names of all categories.

    Returns:
        `regions`: top-1 and top-5 accuracy of naming an object from the mean of the patches it covers (a name
        that is true of it is right); `pictures`: mean average precision of "is this object in the picture" with
        the sentence "a photo of the ..." and patches pooled by it at the encoder's temperature (EF-VLA eq. 1).
    """
    names = [(lexicon.coloured(kind) or lexicon.nouns(kind))[0] for kind in corpus.categories]
    sentences = [f"a photo of the {name}" for name in names]
    aligned = [lexicon.align(sentence) for sentence in sentences]
    flags = _flags([a.target if a else frozenset() for a in aligned], corpus.categories)  # (Q, K)
    text = encoder.embed_text(sentences).cpu()
    top1 = top5 = count = 0
    scores, present = [], []
    for part in np.array_split(rows, max(1, -(-len(rows) // _BATCH))):
        patches, cover = _look(encoder, corpus, part)
        amount = cover.sum(1)
        regions = F.normalize(torch.einsum("bnk,bnd->bkd", torch.from_numpy(cover), patches), dim=-1)
        ranked = (regions @ text.T).argsort(-1, descending=True).numpy()
        for picture, kind in zip(*np.nonzero(amount >= 1), strict=True):
            right = flags[ranked[picture, kind, :5], kind] > 0
            top1, top5, count = top1 + bool(right[0]), top5 + bool(right.any()), count + 1
        similarity = torch.einsum("bnd,qd->bqn", patches, text)
        weights = (similarity / encoder.temperature).softmax(-1)
        scores.append((weights * similarity).sum(-1).numpy())
        shown = amount @ flags.T
        present.append(np.where(shown >= 1, 1, np.where(shown > 0, -1, 0)))
    precision = _average_precision(np.concatenate(scores), np.concatenate(present))
    return {
        "regions": {
            "top1": round(top1 / max(1, count), 4),
            "top5": round(top5 / max(1, count), 4),
            "count": count,
        },
        "pictures": {"mean_average_precision": round(float(np.mean(precision)), 4), "names": len(precision)},
    }


def _average_precision(scores: np.ndarray, present: np.ndarray) -> list[float]:
    """One value for each name with pictures on either side; present 1 yes, 0 no, -1 do not count."""
    values = []
    for column in range(scores.shape[1]):
        counted = present[:, column] >= 0
        truth = present[counted, column][np.argsort(-scores[counted, column], kind="stable")]
        if 0 < truth.sum() < len(truth):
            precision = np.cumsum(truth) / np.arange(1, len(truth) + 1)
            values.append(float((precision * truth).sum() / truth.sum()))
    return values or [0.0]


def _look(encoder: Encoder, corpus: SceneCorpus, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
    images = torch.from_numpy(np.stack([corpus.image(row) for row in rows])).permute(0, 3, 1, 2)
    patches = encoder.encode_image(images).values.cpu()
    labels = np.stack([corpus.labels(row) for row in rows])
    return patches, coverage(labels, len(corpus.categories), labels.shape[1] // encoder.grid[0])


def _flags(types: Sequence[frozenset[str]], categories: Sequence[str]) -> np.ndarray:
    return np.array([[kind in mine for kind in categories] for mine in types], np.float32)


@torch.no_grad()
def heat_maps(encoder: Encoder, corpus: SceneCorpus, lexicon: Lexicon, path: Path, pictures: int = 8) -> None:
    """Draw a sheet: held-out pictures in rows, what four sentences and the basket's own words see in columns."""
    from matplotlib.figure import Figure

    rng = np.random.default_rng(0)
    rows = corpus.split(held_out=True)
    chosen = [rows[corpus.camera[rows] == c] for c in range(len(corpus.cameras))]
    picked = [
        int(r) for part in chosen for r in part[np.linspace(0, len(part) - 1, pictures // 2).astype(int)]
    ]
    figure = Figure(figsize=(11, 2.3 * len(picked)))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.98, 0.03, 0.12)
    axes = figure.subplots(len(picked), 5, squeeze=False)
    for line, row in enumerate(picked):
        image, labels = corpus.image(row), corpus.labels(row)
        patches, cover = _look(encoder, corpus, np.array([row]))
        shown = [corpus.categories[k] for k in np.flatnonzero(cover[0].sum(0) >= 1)]
        axes[line, 0].imshow(image)
        axes[line, 0].set_title(corpus.cameras[corpus.camera[row]], fontsize=8)
        for column in range(1, 5):
            axis = axes[line, column]
            if shown:
                kind = shown.pop(int(rng.integers(len(shown))))
                name = (lexicon.coloured(kind) or lexicon.nouns(kind))[0]
                similarity = patches[0] @ encoder.embed_text([f"pick up the {name}"])[0].cpu()
                heat = (similarity / encoder.temperature).softmax(-1).view(encoder.grid)
                axis.imshow(image)
                axis.imshow(
                    heat.numpy(), cmap="inferno", alpha=0.6, interpolation="bilinear",
                    extent=(-0.5, labels.shape[1] - 0.5, labels.shape[0] - 0.5, -0.5),
                )  # fmt: skip
                axis.set_title(f"pick up the {name}", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def write_card(folder: Path, encoder: Encoder, corpus: SceneCorpus, lexicon: Lexicon) -> dict[str, Any]:
    """Measure everything on the held-out scenes; write model_card.json, model_card.md and heat_maps.png.

    Returns:
        What model_card.json holds.
    """
    from fovea.evaluation.model_card import save_card

    rows = corpus.split(held_out=True)
    scores = pointing(encoder, corpus, lexicon, rows)
    names = ("all", *corpus.cameras)
    summary = {form: {name: scores[form][name]["accuracy"] for name in names} for form in FORMS}
    heat_maps(encoder, corpus, lexicon, folder / "heat_maps.png")
    card = {
        "encoder": encoder.name.partition(":")[0],
        "identity": encoder.identity,
        "tap": encoder.tap,
        "temperature": encoder.temperature,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "grid": list(encoder.grid),
        "width": encoder.width,
        "held_out": {"pictures": len(rows), "scenes": len(np.unique(corpus.scene[rows]))},
        "corpus": {k: v for k, v in corpus.record.items() if k != "categories"} | {"pictures": len(corpus)},
        "pointing": {"summary": summary, **scores},
        "zero_shot": zero_shot(encoder, corpus, lexicon, rows),
    }
    save_card(folder, card)
    return card


def main(arguments: list[str] | None = None) -> None:
    """`python -m fovea.evaluation.pointing ENCODER CORPUS --output DIR`: write the model card of any encoder."""
    from fovea.encoders.registry import create_encoder

    parser = argparse.ArgumentParser(description=write_card.__doc__)
    parser.add_argument("encoder", help="tiny, tiny:<folder>, ViT-B-32/openai, ...")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tap", default=None)
    parser.add_argument("--output", type=Path, default=Path("outputs/pointing"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    corpus = SceneCorpus(options.corpus)
    encoder = create_encoder(options.encoder, tap=options.tap)
    card = write_card(options.output, encoder, corpus, catalogue_lexicon(corpus.categories))
    print(json.dumps({"summary": card["pointing"]["summary"], "zero_shot": card["zero_shot"]}, indent=2))


if __name__ == "__main__":
    main()
