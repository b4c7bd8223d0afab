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
        hands_over: it takes another program's flags: `run` gets the words after the verb, and `module` has no `Config`.
    """

    section: str
    summary: str
    module: str
    examples: tuple[str, ...]
    choices: dict[str, tuple[str, str]] | None = None
    hands_over: bool = False


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
        "list the LIBERO, LIBERO-PRO and unseen suites, and the tasks of one",
        "fovea.cli.suites",
        ("fovea suites", "fovea suites --suite libero_goal_lan", "fovea suites --all --json"),
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
    "import": Verb(
        "Data",
        "turn demonstrations that others recorded into a LeRobot dataset",
        "fovea.cli.import_libero",
        (
            "fovea import libero --source downloads/libero_object --out outputs/data/libero_object_human",
            "fovea import libero --source one_task_demo.hdf5 --skip_bad --instruction file_name",
        ),
        choices={"libero": ("fovea.cli.import_libero", "LIBERO's official demonstrations (HDF5)")},
    ),
    "cache": Verb(
        "Data",
        "compute the frozen encoder's features of a dataset, once",
        "fovea.cli.cache",
        (
            "fovea cache --dataset outputs/data/libero_object",
            "fovea cache --dataset outputs/data/libero_object --variants 4 --dry_run",
        ),
    ),
    "compile": Verb(
        "Data",
        "make an encoder's pictures fast on a processor: OpenVINO in fp32 or int8",
        "fovea.cli.compile",
        (
            "fovea compile --encoder tiny --dataset outputs/data/libero_object",
            "fovea compile --encoder ViT-B-32/openai --dataset outputs/data/libero_object --json",
        ),
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
    "convert": Verb(
        "Train",
        "turn a public checkpoint of another code into a policy of ours",
        "fovea.cli.convert_otter",
        (
            "fovea convert otter otter.safetensors outputs/otter",
            "fovea convert otter otter.pt outputs/otter --n_obs_steps 12 --cameras image_primary,image_wrist",
            "fovea convert vla-adapter LIBERO-Object-Pro outputs/vla_adapter_pro --vlm LIBERO-Object-Pro",
        ),
        choices={
            "otter": ("fovea.cli.convert_otter", "OTTER, EF-VLA as its authors released it"),
            "vla-adapter": ("fovea.cli.convert_vla_adapter", "VLA-Adapter and VLA-Adapter-Pro"),
        },
    ),
    "describe": Verb(
        "Measure",
        "the sizes and parameters of a policy type or of a checkpoint",
        "fovea.cli.describe",
        (
            "fovea describe focus_vla --json",
            "fovea describe vla_adapter --variant pro --compat",
            "fovea describe outputs/train/checkpoints/last",
        ),
    ),
    "eval": Verb(
        "Measure",
        "run a trained policy in closed loop in LIBERO and count successes",
        "fovea.cli.eval",
        (
            "fovea eval --checkpoint outputs/train/checkpoints/last",
            "fovea eval --checkpoint outputs/train/checkpoints/last --layout drawn --json",
            "fovea eval --checkpoint my_act --suite libero_spatial,libero_goal --max_steps 280 --engine ray",
        ),
    ),
    "lerobot-eval": Verb(
        "Measure",
        "LeRobot's own evaluation in its own LIBERO environment, made to run here",
        "fovea.cli.lerobot_eval",
        (
            "fovea lerobot-eval --policy.path=outputs/train/checkpoints/last --env.task=libero_object",
            "fovea lerobot-eval --policy.path=outputs/train/checkpoints/last --env.task_ids=[0,3] --eval.n_episodes=5",
        ),
        hands_over=True,
    ),
    "ground": Verb(
        "Measure",
        "how often the words of an instruction look at the objects they name",
        "fovea.cli.ground",
        (
            "fovea ground --encoders tiny --suite libero_object --layout drawn",
            "fovea ground --checkpoints outputs/train/checkpoints/last --data outputs/data/libero_object",
        ),
    ),
    "attend": Verb(
        "Measure",
        "what the layers of policies look at, and how much of it are the task's objects",
        "fovea.cli.attend",
        (
            "fovea attend outputs/train/checkpoints/last --suite libero_spatial --task 0,3",
            "fovea attend outputs/mixed/checkpoints/last --against outputs/cascaded/checkpoints/last --moments 4",
        ),
    ),
    "graft": Verb(
        "Measure",
        "which vision encoder suits which VLA backbone, before a cluster is spent",
        "fovea.cli.graft",
        (
            "fovea graft --backbones smolvla-small smolvla-base --encoders tiny efficientnet_lite0 random/tiny",
            "fovea graft --backbones smolvla-libero,pi05-libero --encoders siglip,dinov2 --seeds 2 --device cuda",
        ),
    ),
    "report": Verb(
        "Measure",
        "write the page of a run again from its numbers",
        "fovea.cli.report",
        ("fovea report", "fovea report --run outputs/eval --out page"),
    ),
    "bench": Verb(
        "Measure",
        "a part of Fovea beside its peers, in one run on this machine",
        "fovea.cli.bench",
        (
            "fovea bench sim",
            "fovea bench sim --suite libero_goal --task 3 --json",
            "fovea bench ef-vla --out results/ef_vla_speed.md",
            "fovea bench focus-vla --batches 2,8 --out results/focus_vla_speed.md",
            "fovea bench graft --dataset outputs/data/libero_object",
        ),
        choices={
            "sim": ("fovea.cli.bench", "the simulator beside stock LIBERO's and LeRobot's environments"),
            "ef-vla": ("fovea.cli.bench_ef_vla", "EF-VLA beside its published form and LeRobot's ACT"),
            "focus-vla": (
                "fovea.cli.bench_focus_vla",
                "FocusVLA's policy beside VLA-Adapter-Pro's as published, forward and backward",
            ),
            "graft": (
                "fovea.cli.bench_graft",
                "an encoder's tokens computed once, beside encoding in every run",
            ),
        },
    ),
    "experts": Verb(
        "Measure",
        "how often the scripted expert reaches a suite's goals",
        "fovea.cli.experts",
        (
            "fovea experts bench --suite libero_goal --states 5",
            "fovea experts bench --suite libero_spatial --states 20 --workers 2 --out results/expert.md",
        ),
        choices={
            "bench": ("fovea.cli.experts", "play official initial states and count successes"),
        },
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
            "graft": (
                "fovea.cli.reproduce_graft",
                "encoders grafted onto two SmolVLA backbones of different size",
            ),
            "ef-vla": (
                "fovea.cli.reproduce_ef_vla",
                "EF-VLA, LF-VLA and the ablations on three suites and the unseen tasks (the paper's Table 1)",
            ),
            "focus-vla": (
                "fovea.cli.reproduce_focus_vla",
                "VLA-Adapter, FocusVLA and the rungs between them on two suites (the paper's Table 2)",
            ),
        },
    ),
}
