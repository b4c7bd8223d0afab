"""Every verb of the command line: what `fovea --help` lists and where each one lives.

To add a verb: write `cli/<verb>.py` with a dataclass `Config` and `run(config)`, and one entry here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One entry of the table of contents.

    Attributes:
        section: heading it stands under in `fovea --help`.
        summary: one line, what a user gets from it.
        module: module with `Config` (a dataclass whose fields are the flags) and `run(config)`.
        examples: complete command lines.
        choices: name -> (module, summary), for a verb that takes a name before its flags, as in
            `fovea reproduce first`.
    """

    section: str
    summary: str
    module: str
    examples: tuple[str, ...]
    choices: dict[str, tuple[str, str]] | None = None


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "Start here",
        "from nothing to a measured policy and a report, in 20 minutes",
        "fovea.cli.demo",
        ("fovea demo", "fovea demo --quick"),
    ),
    "doctor": Verb(
        "Start here",
        "check this machine and say how to mend what is missing",
        "fovea.cli.doctor",
        ("fovea doctor", "fovea doctor --json"),
    ),
    "suites": Verb(
        "Data",
        "list the LIBERO suites and the tasks of one",
        "fovea.cli.suites",
        ("fovea suites", "fovea suites --suite libero_object", "fovea suites --json"),
    ),
    "collect": Verb(
        "Data",
        "record demonstrations of the scripted expert as a LeRobot dataset",
        "fovea.cli.collect",
        (
            "fovea collect --suite libero_object --workers 2",
            "fovea collect --tasks 0,6,7 --episodes 24 --layout drawn --out outputs/data/three",
        ),
    ),
    "cache": Verb(
        "Data",
        "compute the frozen encoder's features of a dataset, once",
        "fovea.cli.cache",
        ("fovea cache --dataset outputs/data/libero_object",),
    ),
    "pretrain": Verb(
        "Train",
        "train the encoder that ships, from scratch, on rendered scenes",
        "fovea.cli.pretrain",
        ("fovea pretrain", "fovea pretrain --tap attn_qk --out outputs/pretrain-attn_qk"),
    ),
    "train": Verb(
        "Train",
        "train a policy from a dataset and its cached features",
        "fovea.cli.train",
        (
            "fovea train --dataset outputs/data/libero_object",
            "fovea train --dataset outputs/data/libero_object --policy.fusion late --out outputs/lf_vla",
        ),
    ),
    "eval": Verb(
        "Measure",
        "run a trained policy in closed loop in LIBERO and count successes",
        "fovea.cli.eval",
        (
            "fovea eval --checkpoint outputs/train/checkpoints/last",
            "fovea eval --checkpoint outputs/train/checkpoints/last --layout drawn --json",
        ),
    ),
    "report": Verb(
        "Measure",
        "write the page of a run again from its numbers",
        "fovea.cli.report",
        ("fovea report", "fovea report --run outputs/eval --out page"),
    ),
    "reproduce": Verb(
        "Measure",
        "run a whole study again, from data to the table in results/",
        "fovea.cli.reproduce",
        ("fovea reproduce first", "fovea reproduce first --episodes 5 --results outputs/first.md"),
        choices={
            "first": (
                "fovea.cli.reproduce",
                "EF-VLA and LF-VLA on libero_object, trained and held-out targets",
            ),
        },
    ),
}
