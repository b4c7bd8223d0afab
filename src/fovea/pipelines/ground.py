"""Grounding in numbers: how often, and how much, the words of an instruction look at the objects they name."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fovea.data.files import locked, write_json
from fovea.encoders.base import TAPS, check_tap
from fovea.lens import grounding
from fovea.lens.moments import Moment, choose_starts, named_in_data, take_moments
from fovea.lens.sheet import grounding_sheet, save_png
from fovea.lens.word_maps import PolicyMaps, WordMaps, describe, encoder_maps, policy_maps
from fovea.pipelines.look_config import GroundConfig
from fovea.pipelines.scene_records import SceneRecords, sheet_paths
from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar
from fovea.sim.catalogue import CATALOGUE

RULES = 1  # of asking and scoring; answers under other rules are not re-used


def run(config: GroundConfig) -> dict[str, Any]:
    """Ask what was not asked yet.

    Returns:
        `suite`, `layout`, `scenes` (how many), `moments` (of each), `seed`, `commit`, `unseen` (types that occurred and
        count as unseen, or None), `sheets` (paths), and `variants`: each with `name`, `tap`, `temperature` and
        `cameras` (`fovea.lens.grounding.summarise`). The same is written to ground.json.

    Raises:
        FoveaError: an unknown encoder, tap, suite, task or data set, weights that are not there, or a checkpoint
            without word maps.
    """
    starts = choose_starts(config.suite, config.tasks, config.scenes, config.layout, config.seed)
    named, variants = _named(config), _variants(config)
    sizes = [variant.image_size for variant in variants]
    identities = [variant.identity for variant in variants]
    sheets = sheet_paths(config.out, starts, config.sheets, identities)
    with locked(config.out / ".lock", wait=False), progress_bar(visible=not config.json) as bar:
        records = SceneRecords(config.out / "answers.jsonl", (RULES, max(sizes), config.moments))
        todo = records.missing(starts, identities, sheets)
        job = bar.add_task("scenes", total=len(starts), completed=len(starts) - len(todo), note="")
        for moments in take_moments(todo, sizes, config.moments):
            _look(moments, variants, records, sheets.get(moments[0].start))
            bar.advance(job)
    tables = []
    unseen: set[str] = set()
    for variant in variants:
        answers = [answer for start in starts for answer in records.of(variant.identity, start)]
        answers = [grounding.judge_seen(answer, named) for answer in answers]
        unseen.update(kind for answer in answers if answer["seen"] is False for kind in answer["types"])
        tables.append(describe(variant) | {"cameras": grounding.summarise(answers)})
    result = {
        "suite": config.suite,
        "layout": config.layout,
        "scenes": len(starts),
        "moments": config.moments,
        "seed": config.seed,
        "commit": current_commit(),
        "unseen": None if named is None else sorted(unseen),
        "sheets": [str(path) for path in sheets.values()],
        "variants": tables,
    }
    write_json(config.out / "ground.json", result)
    return result


def _named(config: GroundConfig) -> frozenset[str] | None:
    """Object types that count as seen in robot data; None if nothing was said about it."""
    if config.data is not None:
        return named_in_data(config.data)
    return frozenset(CATALOGUE) - set(config.holdout) if config.holdout else None


def _variants(config: GroundConfig) -> list[WordMaps]:
    """Everything that looks, loaded."""
    encoders = config.encoders or ([] if config.checkpoints else ["tiny"])
    taps = [check_tap(tap) for tap in config.taps] or TAPS
    found: list[WordMaps] = [encoder_maps(name, tap) for name in encoders for tap in taps]
    return found + [policy_maps(checkpoint) for checkpoint in config.checkpoints]


def _look(
    moments: list[Moment], variants: Sequence[WordMaps], records: SceneRecords, path: Path | None
) -> None:
    """Ask every variant about a scene, and draw the middle one of its moments."""
    shown = len(moments) // 2
    looks = []
    for variant in variants:
        maps = [variant.look(moment.observations[variant.image_size]) for moment in moments]
        answers = [q for moment, its in zip(moments, maps, strict=True) for q in grounding.ask(moment, its)]
        records.add(variant.identity, moments[0].start, answers, who=variant.name, tap=variant.tap)
        looks.append((_heading(variant), maps[shown]))
    if path is not None:
        save_png(grounding_sheet(moments[shown], looks), path)


def _heading(variant: WordMaps) -> str:
    """What a sheet calls a variant: of a checkpoint or a file the telling end."""
    name = variant.name
    if isinstance(variant, PolicyMaps):
        usual = ("checkpoints", "last", "pretrained_model")
        parts = [part for part in Path(name).parts if part not in usual] or [name]
        name = "/".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
    elif family := re.match(r"(.+?)(:|//).*/", name):
        name = f"{family[1]}{family[2]}{Path(name).name}"
    return f"{name}, {variant.tap}"


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: a line for every variant, camera and group of nouns, then what was left out."""
    lines = [
        "| who looks | tap | camera | nouns | arg-max on the object | 95 % interval | chance | mass on it | its area |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for variant in result["variants"]:
        taus = ", ".join(f"{tau:.3g} ({camera})" for camera, tau in variant["temperature"].items())
        notes.append(f"{variant['name']} ({variant['tap']}): tau {taus}.")
        for camera, found in variant["cameras"].items():
            groups = found["groups"]
            for group, cell in {**groups, "all": found["all"]}.items():
                # a role all of whose objects are seen, or all unseen, needs one line only
                if not any(groups.get(f"{group}, {word}") == cell for word in ("seen", "unseen")):
                    lines.append(_row(variant, camera, group, cell))
            several = found["all"]["several"]
            who = f"{variant['name']} ({variant['tap']}), {camera}"
            left = ", ".join(f"{count} {reason}" for reason, count in found["left_out"].items())
            if left:
                notes.append(f"{who}: left out {left}.")
            if several["asked"]:
                notes.append(
                    f"{who}: {several['asked']} nouns were true of several visible objects; any of them counts. On the "
                    f"one the task means: {several['own']}."
                )
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")


def _row(variant: dict[str, Any], camera: str, group: str, cell: dict[str, Any]) -> str:
    start = f"| {variant['name']} | {variant['tap']} | {camera} | {group} |"
    if not cell["asked"]:
        return f"{start} - (0) | - | - | - | - |"
    low, high = cell["interval"]
    return (
        f"{start} {cell['accuracy']:.0%} ({cell['right']}/{cell['asked']}) | {low:.0%} - {high:.0%} | "
        f"{cell['chance']:.1%} | {cell['mass']:.0%} | {cell['area']:.1%} |"
    )
