"""`fovea suites`: which LIBERO suites there are, which are complete, and the tasks of one."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass
class Config:
    """What to list.

    Attributes:
        suite: list the tasks of this suite.
        all: list the incomplete suites too, and what each of them lacks.
        json: print JSON.
    """

    suite: str | None = None
    all: bool = False
    json: bool = False


def run(config: Config) -> None:
    """Print the suites, or one suite's tasks with their instructions."""
    from fovea.sim import registry
    from fovea.sim.suites import get_tasks

    if config.suite:
        get_tasks(config.suite)  # says what is wrong with the name or the suite
        records = [_record(config.suite)]
    else:
        records = [_record(name) for name in registry.suite_names()]
    complete = [record for record in records if record["complete"]]
    incomplete = [record for record in records if not record["complete"]]
    if config.json:
        print(json.dumps(complete + incomplete * config.all, indent=2, ensure_ascii=False))
        return
    for origin in dict.fromkeys(record["origin"] for record in complete):
        print(f"{origin}:")
        for record in complete:
            if record["origin"] == origin:
                print(f"  {_line(record)}")
                if config.suite:
                    print(*(f"    {i:>2}  {text}" for i, text in enumerate(record["tasks"])), sep="\n")
    if incomplete and not config.all:
        print(f"{len(incomplete)} suites that LIBERO-PRO registers lack files: fovea suites --all")
    elif incomplete:
        print("Registered by LIBERO-PRO, but its package lacks files:")
        print(*(f"  {r['suite']:<{_WIDTH}}{'; '.join(r['missing'])}" for r in incomplete), sep="\n")


_WIDTH = 40


def _line(record: dict[str, Any]) -> str:
    note = f"   {record['note']}" if record["note"] else ""
    return (
        f"{record['suite']:<{_WIDTH}}{len(record['tasks']):>3} tasks, at most {record['max_steps']} steps, "
        f"{record['initial_states']} initial states{note}"
    )


def _record(name: str) -> dict[str, Any]:
    from fovea.sim import registry

    suite = registry.suite(name)
    states = (
        {registry.state_count(suite.states_file(task)) for task in suite.tasks} if not suite.missing else {0}
    )
    return {
        "suite": name,
        "origin": suite.origin,
        "complete": not suite.missing,
        "missing": list(suite.missing),
        "max_steps": suite.max_steps,
        "initial_states": min(states),
        "note": registry.NOTES.get(name, ""),
        "tasks": list(suite.tasks if suite.missing else suite.instructions),
    }
