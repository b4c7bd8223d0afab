"""`fovea suites`: which LIBERO suites there are, and the tasks of one."""

import json
from dataclasses import dataclass


@dataclass
class Config:
    """What to list."""

    suite: str | None = None  # list the tasks of this suite
    json: bool = False  # print JSON


def run(config: Config) -> None:
    """Print the suites, or one suite's tasks with their instructions."""
    from fovea.sim.suites import MAX_STEPS, get_tasks, list_suites

    suites = [config.suite] if config.suite else list_suites()
    tasks = {suite: [task.language for task in get_tasks(suite)] for suite in suites}
    if config.json:
        records = [
            {"suite": s, "max_steps": MAX_STEPS[s], "tasks": languages} for s, languages in tasks.items()
        ]
        print(json.dumps(records, indent=2))
        return
    for suite, languages in tasks.items():
        print(f"{suite:<16}{len(languages):>3} tasks, at most {MAX_STEPS[suite]} steps")
        if config.suite:
            print(*(f"  {number:>2}  {language}" for number, language in enumerate(languages)), sep="\n")
