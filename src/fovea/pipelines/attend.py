"""What the layers of policies look at: maps, and the share of their attention on the task's objects."""

from collections.abc import Sequence
from typing import Any

from fovea.data.files import locked, write_json
from fovea.lens.attention import Gaze, load_gaze, mean_interval, scene_means, shares, summarise
from fovea.lens.moments import choose_starts, take_moments
from fovea.lens.sheet import attention_sheet, save_png
from fovea.pipelines.look_config import AttendConfig
from fovea.pipelines.scene_records import SceneRecords, sheet_paths
from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar

RULES = 1  # of measuring; shares under other rules are not re-used


def run(config: AttendConfig) -> dict[str, Any]:
    """Look where nobody looked yet.

    Returns:
        `suite`, `layout`, `scenes` (how many), `moments` (of each), `seed`, `commit`, `sheets` (paths), and `policies`:
        each with `name`, `title`, `kind`, `choices` and what `fovea.lens.attention.summarise` says; all but the first
        also with `difference`, of its `objects` less the first one's, paired by scene. The same is written to
        attend.json.

    Raises:
        FoveaError: a checkpoint that is none of these policies', or an unknown suite or task.
    """
    starts = choose_starts(config.suite, config.task, config.scenes, config.layout, config.seed)
    gazes = [load_gaze(checkpoint) for checkpoint in (config.checkpoint, *config.against)]
    sizes = [gaze.image_size for gaze in gazes]
    identities = [gaze.identity for gaze in gazes]
    called = captions(gazes)
    sheets = sheet_paths(config.out, starts, config.sheets, [*identities, str(config.layers)])
    with locked(config.out / ".lock", wait=False), progress_bar(visible=not config.json) as bar:
        records = SceneRecords(config.out / "shares.jsonl", (RULES, max(sizes), config.moments))
        todo = records.missing(starts, identities, sheets)
        job = bar.add_task("scenes", total=len(starts), completed=len(starts) - len(todo), note="")
        for moments in take_moments(todo, sizes, config.moments):
            start, shown, looks = moments[0].start, len(moments) // 2, []
            for gaze, caption in zip(gazes, called, strict=True):
                maps = [gaze.look(moment.observations[gaze.image_size]) for moment in moments]
                measured = [shares(moment, its) for moment, its in zip(moments, maps, strict=True)]
                records.add(gaze.identity, start, measured, who=gaze.name)
                looks.append((caption, maps[shown]))
            if start in sheets:
                save_png(attention_sheet(moments[shown], looks, config.layers), sheets[start])
            bar.advance(job)
    scenes = [[records.of(identity, start) for start in starts] for identity in identities]
    result = {
        "suite": config.suite,
        "layout": config.layout,
        "scenes": len(starts),
        "moments": config.moments,
        "seed": config.seed,
        "commit": current_commit(),
        "sheets": [str(path) for path in sheets.values()],
        "policies": [
            {"name": gaze.name, "title": gaze.title, "kind": gaze.kind, "choices": gaze.choices}
            | summarise(mine)
            | ({"difference": _difference(mine, scenes[0])} if number else {})
            for number, (gaze, mine) in enumerate(zip(gazes, scenes, strict=True))
        ],
    }
    write_json(config.out / "attend.json", result)
    return result


def captions(gazes: Sequence[Gaze]) -> list[str]:
    """What sheets call the policies; numbered, in the order of the command, where some would be called the same."""
    found = [f"{gaze.title}, {gaze.choices}" for gaze in gazes]
    if len(set(found)) == len(found):
        return found
    return [f"{number}: {caption}" for number, caption in enumerate(found, 1)]


def _difference(mine: Any, first: Any) -> dict[str, Any]:
    pairs = zip(scene_means(mine, "objects"), scene_means(first, "objects"), strict=True)
    return mean_interval([a - b for a, b in pairs])


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    cameras = list(result["policies"][0]["cameras"])
    names = [
        *(
            "policy",
            "attention",
            "to vision",
            "of that, on the task's objects",
            "chance",
            "target",
            "destination",
        ),
        *(f"{camera}: share, on objects" for camera in cameras),
        "patches with weight",
    ]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    notes = []
    for policy in result["policies"]:
        area = policy["area"]
        cells = [policy["name"], policy["choices"], _share(policy["vision"]), _share(policy["objects"])]
        cells += [f"{area['objects']:.1%}"]
        cells += [f"{policy[kind]['mean']:.1%} of {area[kind]:.1%}" for kind in ("target", "destination")]
        for camera in cameras:
            its = policy["cameras"][camera]
            cells.append(f"{its['share']['mean']:.0%}, {its['objects']['mean']:.1%} of {its['area']:.1%}")
        cells.append(f"{policy['kept']['mean']:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
        layers = ", ".join(f"{share:.1%}" for share in policy["layers"]["objects"])
        notes.append(f"{policy['name']}, on the objects, by layer: {layers}.")
        if "difference" in policy:
            more = _share(policy["difference"])
            notes.append(f"{policy['name']} less {result['policies'][0]['name']}, on the objects: {more}.")
    return "\n".join([*lines, "", *notes]) + "\n"


def _share(value: dict[str, Any]) -> str:
    low, high = value["interval"] or (0.0, 0.0)
    if low == high:  # of one scene, or the same everywhere
        return f"{value['mean']:.1%}"
    return f"{value['mean']:.1%} ({low:.1%} to {high:.1%})"
