"""Failure drills in numbers: `python benchmarks/drills.py` writes results/drills.md. The tests run fewer of the same.

Jobs killed at random and gone on with; files cut and bits flipped; generated configurations run one step.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [
    str(ROOT / "tests" / room) for room in ("", "drills", "data", "training", "policies")
]  # the drills are tests first

import torch  # noqa: E402
from configurations import KINDS as POLICIES  # noqa: E402
from configurations import one_step, toy_encoder  # noqa: E402
from damage import KINDS as KEPT  # noqa: E402
from damage import equal, hurt  # noqa: E402
from jobs import DATA, JOBS  # noqa: E402
from killing import drill  # noqa: E402
from rich.console import Console  # noqa: E402
from synthetic_episodes import LENGTHS, make_episode  # noqa: E402

from fovea.data.record import assemble  # noqa: E402
from fovea.data.staging import write_episode  # noqa: E402
from fovea.errors import FoveaError  # noqa: E402
from fovea.pipelines.stages import current_commit  # noqa: E402

say = Console(stderr=True).print


def dataset(folder: Path) -> Path:
    """A small recorded data set in `folder / DATA`."""
    for number, steps in enumerate(LENGTHS):
        write_episode(folder / "staging", number, **make_episode(number, steps))
    return assemble(folder / "staging", folder / DATA, {"suite": "libero_object"}, progress=False)


def killing(folder: Path, kills: int, seed: int) -> list[str]:
    """Every job, killed `kills` times."""
    lines = [
        "| job | kills | runs finished after them | same result as undisturbed |",
        "|---|---|---|---|",
    ]
    for job in JOBS:
        (folder / job).mkdir(parents=True)
        dataset(folder / job)
        outcome = drill(job, folder / job, kills, seed)
        lines.append(
            f"| {job} | {outcome.kills} | {outcome.finished} | {'yes' if outcome.same else '**no**'} |"
        )
        say(lines[-1])
    return lines


def damaging(folder: Path, cases: int, seed: int) -> list[str]:
    """Every kind of thing that is kept on disk, `cases` of it damaged."""
    lines = [
        "| kept on disk | damaged | named in a message | harmless: read as written | other numbers, or another error |",
        "|---|---|---|---|---|",
    ]
    source = dataset(folder)
    for kind, (make, read) in KEPT.items():
        make(folder / kind / "whole", source)
        expected = read(folder / kind / "whole")
        count = {"named": 0, "harmless": 0, "wrong": 0}
        for case in range(cases):
            root = folder / kind / "hurt"
            shutil.copytree(folder / kind / "whole", root, symlinks=True)
            done = hurt(root, random.Random(f"{kind} {seed} {case}"))
            count[_reading(read, root, expected, done)] += 1
            shutil.rmtree(root)
        lines.append(f"| {kind} | {cases} | {count['named']} | {count['harmless']} | {count['wrong']} |")
        say(lines[-1])
    return lines


def _reading(read: Any, root: Path, expected: list[Any], done: str) -> str:
    try:
        found = read(root)
    except FoveaError:
        return "named"
    except Exception as error:
        say(f"{done}: {error!r}")
        return "wrong"
    if equal(found, expected):
        return "harmless"
    say(f"{done}: other numbers")
    return "wrong"


def configuring(cases: int, seed: int) -> list[str]:
    """Every kind of policy, `cases` configurations in all."""
    lines = [
        "| policy | configurations | ran one step | refused, naming the field | neither |",
        "|---|---|---|---|---|",
    ]
    encoder = toy_encoder()
    for number, (name, kind) in enumerate(POLICIES.items()):
        share = cases // len(POLICIES) + (number < cases % len(POLICIES))
        rng = random.Random(f"{name} {seed}")
        count = {"ran": 0, "refused": 0, "neither": 0}
        for _ in range(share):
            chosen = rng.sample(sorted(kind.fields), rng.randint(1, 6))
            changes = {field: rng.choice(kind.fields[field]) for field in chosen}
            try:
                count[one_step(kind, changes, encoder)] += 1
            except Exception as error:
                say(f"{name} {changes}: {error!r}")
                count["neither"] += 1
        lines.append(f"| {name} | {share} | {count['ran']} | {count['refused']} | {count['neither']} |")
        say(lines[-1])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each job")
    parser.add_argument("--damaged", type=int, default=200, help="files of each kind")
    parser.add_argument("--configurations", type=int, default=2000, help="of all policies together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "drills.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        parts = [
            ("Killed at random", killing(Path(name) / "kills", given.kills, given.seed)),
            ("Files damaged at random", damaging(Path(name) / "damage", given.damaged, given.seed)),
            ("Configurations generated at random", configuring(given.configurations, given.seed)),
        ]
    page = [
        "# Failure drills",
        "",
        f"`python benchmarks/drills.py --kills {given.kills} --damaged {given.damaged} --configurations "
        f"{given.configurations} --seed {given.seed}` (commit {current_commit()}, "
        f"{(time.monotonic() - began) / 60:.0f} minutes on a busy two-core machine; the time is no result).",
        "",
        "The jobs are toys where they simulate or learn; files, locks, journals, checkpoints and resuming are the "
        "product's own. Half of the kills (SIGKILL) come before a random operation on a file, half at a random time. "
        "`make test` runs 20 kills, 200 damaged files and 200 configurations.",
    ]
    for title, lines in parts:
        page += ["", f"## {title}", "", *lines]
    given.out.write_text("\n".join(page) + "\n")
    say(f"Written to {given.out}")


if __name__ == "__main__":
    main()
