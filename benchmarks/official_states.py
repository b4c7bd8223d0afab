"""Do LIBERO's official initial states rest under this MuJoCo? `python benchmarks/official_states.py`.

Every state is loaded and settled as an episode begins. Files let objects hover some centimetres above what they stand
on; an object that slides aside by more than --limit centimetres, or falls so much farther than it does in the task's
other states, or still moves, is named. MuJoCo from 3.4 on was reported to break a state of libero_spatial task 5
(LeRobot, issues 4390 and 4465).
"""

import argparse
import re
import sys
from pathlib import Path

import mujoco
import numpy as np

from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar
from fovea.sim import EpisodeStart, LiberoEnv
from fovea.sim.suites import get_tasks

SUITES = ["libero_spatial", "libero_object", "libero_goal", "libero_10"]
MOVING = 0.05  # metres a second


def free_joints(env: LiberoEnv) -> dict[str, tuple[int, int]]:
    """Movable object -> where its position and its velocity begin in qpos and qvel."""
    places = {}
    for name in env.sim_env.objects_dict:
        joint = env.model.joint(env.sim_env.get_object(name).joints[0])
        places[name] = (int(joint.qposadr[0]), int(joint.dofadr[0]))
    return places


def restless(task: str, moves: dict[str, list[np.ndarray]], limit: float) -> list[str]:
    """A line for each object that does not rest in some states, of moves (x, y, z, speed) by object and state."""
    lines = []
    for name, its in moves.items():
        rows = np.stack(its)
        aside = np.linalg.norm(rows[:, :2], axis=1)
        fall = np.maximum(np.median(rows[:, 2]) - rows[:, 2], 0.0)
        bad = np.flatnonzero((aside > limit) | (fall > limit) | (rows[:, 3] > MOVING))
        if len(bad):
            numbers = (
                f"all {len(rows)} states" if len(bad) == len(rows) else f"states {', '.join(map(str, bad))}"
            )
            slid, fell, speed = (100 * column[bad].max() for column in (aside, fall, rows[:, 3]))
            lines.append(
                f"- {task}, {name}: slid up to {slid:.1f} cm, fell up to {fell:.1f} cm farther than usual, moves at up "
                f"to {speed:.0f} cm/s ({numbers})"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", nargs="*", default=SUITES)
    parser.add_argument("--limit", type=float, default=2.0, help="centimetres")
    parser.add_argument("--out", type=Path, default=Path("results/official_states.md"))
    options = parser.parse_args()
    lines, loaded, tasks = [], 0, [task for suite in options.suites for task in get_tasks(suite)]
    with progress_bar() as bar:
        job = bar.add_task("states", total=sum(len(task.initial_states()) for task in tasks), note="")
        for task in tasks:
            env = LiberoEnv(task.suite, task.task_id)
            moves: dict[str, list[np.ndarray]] = {}
            for number, state in enumerate(task.initial_states()):
                env.reset(EpisodeStart(task.suite, task.task_id, number))
                for name, (place, pace) in free_joints(env).items():
                    before = state[1 + place : 1 + place + 3]  # a state begins with its time
                    speed = np.linalg.norm(env.data.qvel[pace : pace + 3])
                    moves.setdefault(name, []).append(
                        np.append(env.data.qpos[place : place + 3] - before, speed)
                    )
                bar.update(job, advance=1, note=f"{len(lines)} objects do not rest")
            env.close()
            loaded += len(task.initial_states())
            lines += restless(f"{task.suite} task {task.task_id}", moves, options.limit / 100)
    found = f"{len(lines)} objects do not rest in some of a task's states" if lines else "every object rests"
    text = (
        f"{loaded:,} official states of {', '.join(options.suites)}: "
        f"after the settling steps {found} (aside by at "
        f"most {options.limit:g} cm, no farther down than in other states, slower than {100 * MOVING:g} cm/s).\n\n"
        + "".join(f"{line}\n" for line in lines)
    )
    print(text, end="")
    command = (
        f"python benchmarks/official_states.py --suites {' '.join(options.suites)} --limit {options.limit:g}"
    )
    title = f"## MuJoCo {mujoco.__version__}\n"
    page = options.out.read_text() if options.out.exists() else "# Official initial states at rest\n"
    head, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    kept = [section.strip() + "\n" for section in sections if not section.startswith(title)]
    kept.append(f"{title}\n`{command}` (commit {current_commit()})\n\n{text.strip()}\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join([head.strip() + "\n", *sorted(kept)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
