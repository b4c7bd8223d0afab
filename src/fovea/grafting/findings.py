"""What the records of a study say: one JSON-able object, from which the pages are written."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fovea.errors import FoveaError
from fovea.grafting.cells import Cell
from fovea.grafting.ranking import Bootstrap, Runs, compare, pairs, rank, runs_of
from fovea.grafting.scores import METRICS

Record = Mapping[str, Any]
WHEN_SCORED = "shuffled when scored"
HEAVY = 4  # an episode that carries so many times its share of the error is named
OFFLINE = (
    "This is an offline diagnostic: it says how well a frozen backbone predicts recorded actions through each encoder. "
    "It makes no claim about closed loop, where errors add up and a policy meets what no demonstration shows."
)


def find(study: Mapping[str, Any], *, draws: int = 2000) -> dict[str, Any]:
    """Tables, comparisons and controls of a study (what `run_study` returned).

    Returns:
        `backbones` (from small to large: name, parameters), `suites`, `encoders`, `tables` (per backbone and suite:
        rows of `rank` with their other metrics, vision use of grafts and of the untouched backbone, controls,
        neutrality), `comparisons` (per suite and pair of backbones; `undecided`: why one says nothing), `agreement`
        (counts over those that do), `verdict`, `caveat`, `tokens`.

    Raises:
        FoveaError: no graft in the study.
    """
    records = list(study["records"])
    grafts = [record for record in records if is_candidate(record)]
    if not grafts:
        raise FoveaError("expected at least one graft in the study, got none")
    sizes = {record["cell"]["backbone"]: record["parameters"] for record in records}
    backbones = sorted(sizes, key=lambda name: sizes[name])
    suites = list(dict.fromkeys(record["cell"]["suite"] for record in records))
    tables = {
        name: {suite: _table(_of(records, backbone=name, suite=suite), draws) for suite in suites}
        for name in backbones
    }
    comparisons = [
        {
            "suite": suite,
            "small": small,
            "large": large,
            "undecided": _undecided(small, tables[small][suite], large, tables[large][suite]),
        }
        | compare(tables[small][suite]["rows"], tables[large][suite]["rows"])
        for suite in suites
        for small, large in pairs(backbones)
    ]
    found: dict[str, Any] = {
        "backbones": [{"name": name, "parameters": sizes[name]} for name in backbones],
        "suites": {suite: dict(study["suites"][suite]) for suite in suites},
        "encoders": list(dict.fromkeys(record["cell"]["encoder"] for record in grafts)),
        "seeds": 1 + max(record["cell"]["seed"] for record in grafts),
        "runs": {"grafts": len(grafts), "controls": len(records) - len(grafts)},
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "tables": tables,
        "comparisons": comparisons,
        "agreement": _agreement(comparisons),
        "tokens": study.get("tokens", {}),
        "caveat": OFFLINE,
    }
    return found | {"verdict": verdict(found)}


def is_candidate(record: Record) -> bool:
    """Whether a record is one of the ranked grafts."""
    return Cell(**record["cell"]).is_candidate


def _of(records: Sequence[Record], **wanted: Any) -> list[Record]:
    return [r for r in records if all(r["cell"][key] == value for key, value in wanted.items())]


def _table(records: Sequence[Record], draws: int) -> dict[str, Any]:
    """One backbone on one suite."""
    bootstrap = Bootstrap(records[0]["episodes"], draws=draws)
    by_encoder: dict[str, list[Record]] = {}
    for record in records:
        if is_candidate(record):
            by_encoder.setdefault(record["cell"]["encoder"], []).append(record)
    rows = rank({name: runs_of(own) for name, own in by_encoder.items()}, bootstrap)
    for row in rows:
        own = by_encoder[row["encoder"]]
        row |= {metric: _mean(runs_of(own, metric)) for metric in METRICS if metric != "mse"}
        row["vision"] = _vision_use(row["encoder"], own, records, bootstrap)
    native = _of(records, kind="native", vision="pictures")
    return {
        "rows": rows,
        "native_vision": _native_vision(native, bootstrap),
        "heaviest": _heaviest([record for own in by_encoder.values() for record in own]),
        "zero_action": _mean(runs_of(records[:1], "zero_action")),
        "controls": _controls(records, bootstrap),
        "neutrality": _against(_of(records, kind="wrapped"), native, bootstrap),
        "lora": _against(_of(records, kind="lora"), native, bootstrap),
    }


def _mean(runs: Sequence[Sequence[float]]) -> float:
    return round(float(np.mean(runs)), 6)


def _vision_use(
    encoder: str, own: Sequence[Record], records: Sequence[Record], bootstrap: Bootstrap
) -> dict[str, Any]:
    """A graft uses vision if it is better than grafts that were trained with other samples' pictures.

    Without such a control, than itself when it is shown other samples' pictures.
    """
    trained = _of(records, kind="graft", encoder=encoder, vision="shuffled")
    seeds = {record["cell"]["seed"] for record in trained}
    paired = [record for record in own if record["cell"]["seed"] in seeds] if trained else list(own)
    control = runs_of(trained) if trained else runs_of(own, part="shuffled")
    name = "trained shuffled" if trained else WHEN_SCORED
    tested = _mean(runs_of(own, part="shuffled"))
    return _compare_to(name, runs_of(paired), control, bootstrap) | {"shuffled_when_scored": tested}


def _native_vision(native: Sequence[Record], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Whether the untouched backbone does better with its own pictures than with other samples'."""
    if not native:
        return None
    return _compare_to(WHEN_SCORED, runs_of(native), runs_of(native, part="shuffled"), bootstrap)


def _compare_to(control: str, own: Runs, other: Runs, bootstrap: Bootstrap) -> dict[str, Any]:
    """Errors with one's own pictures beside those of a control with other samples'."""
    difference = bootstrap.difference(own, other)
    return {
        "control": control,
        "mse": _mean(own),
        "control_mse": _mean(other),
        "difference": difference.to_dict(),
        "uses": difference.high < 0,
    }


def _heaviest(grafts: Sequence[Record]) -> dict[str, Any]:
    """The held-out episode with the largest share of all grafts' error."""
    error = np.mean(runs_of(grafts), axis=0)
    episodes, group = np.unique(np.asarray(grafts[0]["episodes"]), return_inverse=True)
    shares = np.bincount(group, error) / error.sum()
    worst = int(shares.argmax())
    return {
        "episode": int(episodes[worst]),
        "share": round(float(shares[worst]), 4),
        "episodes": len(episodes),
    }


def _controls(records: Sequence[Record], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Every control, in the order of the plan."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if not is_candidate(record):
            groups.setdefault(record["label"], []).append(record)
    return [
        {
            "name": name,
            "runs": len(own),
            "estimate": bootstrap.estimate(runs_of(own)).to_dict(),
            **{metric: _mean(runs_of(own, metric)) for metric in METRICS},
        }
        for name, own in groups.items()
    ]


def _against(
    records: Sequence[Record], native: Sequence[Record], bootstrap: Bootstrap
) -> dict[str, float] | None:
    """Relative change of the error against the untouched backbone; None where one of the two was not run."""
    if not records or not native:
        return None
    return bootstrap.ratio(runs_of(records), runs_of(native)).to_dict()


def _undecided(
    small: str, on_small: Mapping[str, Any], large: str, on_large: Mapping[str, Any]
) -> str | None:
    """Why two tables cannot say whether a winner carries over; None if they can."""
    for name, table in ((small, on_small), (large, on_large)):
        if table["native_vision"] and not table["native_vision"]["uses"]:
            return f"{name} itself does not look there"
        if not any(row["vision"]["uses"] for row in table["rows"]):
            return f"no graft on {name} uses vision"
        if len(table["rows"]) > 1 and all(row["tied"] for row in table["rows"]):
            return f"on {name} no encoder can be told from the best"
    return None


def _agreement(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts over the comparisons that decide something."""
    decided = [comparison for comparison in comparisons if comparison["undecided"] is None]
    cells = [cell for comparison in decided for cell in comparison["seeds"]]
    return {
        "comparisons": len(comparisons),
        "decided": len(decided),
        "transfers": sum(bool(comparison["transfers"]) for comparison in decided),
        "same_winner": sum(c["small_winner"] == c["large_winner"] for c in decided),
        "seed_cells": len(cells),
        "seed_same_winner": sum(cell["same_winner"] for cell in cells),
        "seed_same_order": sum(cell["same_order"] for cell in cells),
    }


def verdict(found: Mapping[str, Any]) -> str:
    """One paragraph: does the small backbone's winner carry over, does vision count, what does the wrapper cost."""
    parts = [_transfer(found)]
    places = [(b, suite, table) for b, suites in found["tables"].items() for suite, table in suites.items()]
    blind = [
        f"{row['encoder']} on {backbone} ({suite})"
        for backbone, suite, table in places
        for row in table["rows"]
        if not row["vision"]["uses"]
    ]
    total = sum(len(table["rows"]) for _, _, table in places)
    if not blind:
        parts.append(f"All {total} grafts use vision: each is better than its shuffled-picture control.")
    else:
        parts.append(
            f"{len(blind)} of {total} grafts do not use vision (not better than their shuffled-picture control): "
            f"{_some(blind)}. Their places in the ranking mean nothing."
        )
    blind_backbones = [
        f"{backbone} on {suite}"
        for backbone, suite, table in places
        if table["native_vision"] and not table["native_vision"]["uses"]
    ]
    if blind_backbones:
        parts.append(
            "Untouched backbones that predict no better from their own pictures than from other samples': "
            f"{_some(blind_backbones)}. What does not look cannot tell encoders apart."
        )
    heavy = [
        f"{table['heaviest']['share']:.0%} on {backbone} ({suite})"
        for backbone, suite, table in places
        if table["heaviest"]["share"] * table["heaviest"]["episodes"] > HEAVY
    ]
    if heavy:
        parts.append(
            f"A single held-out episode carries much of the error ({', '.join(heavy)}): its actions are rare, and the "
            "wide intervals are its doing."
        )
    costs = [
        f"{table['neutrality']['value']:+.1%} on {backbone} ({suite})"
        for backbone, suite, table in places
        if table["neutrality"]
    ]
    if costs:
        parts.append(
            f"The wrapper itself changes the native tower's error by {', '.join(costs)}: ranks are conditional on it."
        )
    return " ".join(parts)


def _transfer(found: Mapping[str, Any]) -> str:
    comparisons, agreement = found["comparisons"], found["agreement"]
    if not comparisons:
        tables = next(iter(found["tables"].values()))
        best = [f"{table['rows'][0]['encoder']} on {suite}" for suite, table in tables.items()]
        return f"One backbone, so nothing is said about transfer; the best encoder is {' and '.join(best)}."
    if len(found["encoders"]) < 2:
        return "One encoder, so there is no ranking to carry over."
    mute = "; ".join(f"on {c['suite']} ({c['undecided']})" for c in comparisons if c["undecided"])
    decided = [c for c in comparisons if c["undecided"] is None]
    if not decided:
        return f"Whether the small backbone's winner carries over cannot be told here: {mute}."
    said = [
        f"on {c['suite']} {c['small_winner']} wins on {c['small']} and "
        + (
            f"is {'the winner' if c['rank_there'] == 1 else 'in the near-tie band of the winner'}"
            if c["transfers"]
            else f"comes {_ordinal(c['rank_there'])}, behind {c['large_winner']},"
        )
        + f" on {c['large']}"
        for c in decided
    ]
    moved = agreement["decided"] - agreement["transfers"]
    where = "where it can be told" if mute else "here"
    head = (
        f"An encoder chosen on the small backbone is a safe choice for the large one {where}"
        if not moved
        else f"In {moved} of {agreement['decided']} comparisons the small backbone's winner is not in the large "
        "backbone's top tier"
    )
    seeds = (
        f"Seed by seed, {agreement['seed_same_winner']} of {agreement['seed_cells']} cells have one winner and "
        f"{agreement['seed_same_order']} one order on both."
    )
    untold = [f"It cannot be told {mute}."] if mute else []
    return " ".join([f"{head}: {'; '.join(said)}.", seeds, *untold])


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}.get(number, f"{number}th")
