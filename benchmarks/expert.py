"""Success of the scripted expert on official initial states: `python benchmarks/expert.py --out results/expert.md`.

No pictures, no noise; the official step limit. One process; about a minute a task.
"""

import argparse
from pathlib import Path

import numpy as np

from fovea.evaluation.statistics import SuccessRate
from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar
from fovea.sim import EpisodeStart, LiberoEnv, get_tasks
from fovea.sim.expert import Expert


def play(env: LiberoEnv, start: EpisodeStart) -> int | None:
    """Steps to success, None if the limit came first."""
    env.reset(start)
    expert = Expert(env)
    for step in range(env.max_steps):
        if env.step(expert.act()):
            return step + 1
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="libero_object")
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["| task | success | 95 % interval | mean steps | most |", "|---|---|---|---|---|"]
    total: list[int | None] = []
    with progress_bar() as bar:
        tasks = get_tasks(options.suite)
        job = bar.add_task("expert", total=len(tasks) * options.states, note="")
        for task in tasks:
            env = LiberoEnv(options.suite, task.task_id)
            steps = []
            for state in range(options.states):
                steps.append(play(env, EpisodeStart(options.suite, task.task_id, state)))
                bar.advance(job)
            env.close()
            total += steps
            lines.append(row(task.language, steps))
    lines.append(row("**all**", total))
    table = "\n".join(lines)
    print(table)
    if options.out:
        command = f"python benchmarks/expert.py --suite {options.suite} --states {options.states}"
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            f"# The scripted expert\n\n`{command}` (commit {current_commit()}): official initial states 0 to "
            f"{options.states - 1} of every task, no noise, the official step limit of "
            f"{tasks[0].max_steps}.\n\n{table}\n"
        )


def row(name: str, steps: list[int | None]) -> str:
    """One line of the table."""
    won = [s for s in steps if s is not None]
    rate = SuccessRate(len(won), len(steps))
    low, high = rate.interval
    mean = f"{np.mean(won):.0f} | {max(won)}" if won else "- | -"
    return f"| {name} | {len(won)}/{len(steps)} | {low:.0%} - {high:.0%} | {mean} |"


if __name__ == "__main__":
    main()
