"""The part of a report that closed-loop episodes decide: success, tasks, films, where the policy went."""

from typing import Any

from fovea.evaluation.statistics import grounding, success_rate, suite_table, task_table
from fovea.sim.layout import IN_WORDS

SHOWN = ("suite", "layout", "successes", "episodes", "rate", "interval", "steps", "seconds")


def measured(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts `success`, `suites`, `tasks`, `videos` and `diagnostics` of a report.

    See `fovea.evaluation.report.write_report`. `steps` are the mean over successes, `seconds` the sum over episodes.
    """
    looked = grounding(records)
    distance = looked["close_distance"]
    suites, tasks = suite_table(records), task_table(records)
    return {
        "success": success_rate(records).to_dict(),
        "suites": [{key: row[key] for key in ("name", *SHOWN)} for row in suites],
        "tasks": [
            {"name": _name(row, suites), "task_id": row["task_id"]} | {key: row[key] for key in SHOWN}
            for row in tasks
        ],
        "videos": choose_videos(records),
        "diagnostics": {
            "closed the gripper at the named object": _share(looked["closed_right"]),
            "lifted the named object first": _share(looked["lifted_right"]),
            "median distance at that moment": "-" if distance is None else f"{100 * distance:.1f} cm",
        },
    }


def _name(row: dict[str, Any], suites: list[dict[str, Any]]) -> str:
    """A task's instruction; with its suite where there are several."""
    return (
        row["instruction"] if len(suites) == 1 else f"{row['suite']} {row['task_id']}: {row['instruction']}"
    )


def choose_videos(records: list[dict[str, Any]], most: int = 3) -> list[dict[str, Any]]:
    """Up to three films: a success first, a failure if there is one, different tasks before the same."""
    filmed = [record for record in records if record["video"]]
    won, lost = [r for r in filmed if r["success"]], [r for r in filmed if not r["success"]]
    chosen = won[:1] + lost[:1]
    seen = {record["instruction"] for record in chosen}
    rest = sorted((r for r in filmed if r not in chosen), key=lambda r: r["instruction"] in seen)
    chosen += rest[: most - len(chosen)]
    return [
        {"path": record["video"], "success": bool(record["success"]), "caption": _caption(record)}
        | ({"maps": True} if record.get("maps") else {})
        for record in chosen
    ]


def _caption(record: dict[str, Any]) -> str:
    start = record["start"]
    official = f"official initial state {start['init_state']}"
    where = official if start["layout"] == "official" else IN_WORDS[start["layout"]]
    return f"{record['instruction']}, {record['steps']} steps, {where}"


def _share(rate: dict[str, Any]) -> str:
    return f"{rate['successes']} of {rate['episodes']}"
