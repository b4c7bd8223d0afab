"""`fovea lerobot-eval`: LeRobot's own evaluation in its own LIBERO environment, with what that lacks here.

Prepared, then handed over: the initial states in LeRobot's layout, an off-screen GL, and the flags below when they
were not given. Every other flag goes to LeRobot as it stands.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fovea.data import keys
from fovea.data.files import read_json
from fovea.errors import FoveaError

PROGRAM = "lerobot-eval"
HELP = """usage: fovea lerobot-eval --policy.path=FOLDER [any flag of lerobot-eval]

LeRobot's own evaluation (lerobot-eval) of any LeRobot policy in LeRobot's own LIBERO environment.

Set for it
  MUJOCO_GL                  osmesa, unless set: draws without a display
  HF_HUB_OFFLINE             1, unless set, when the policy is a folder here
  LIBERO_CONFIG_PATH         a folder with the initial states in the files that LeRobot reads

Flags that are added when they are not given
  --env.type                 libero
  --env.task                 libero_object; several suites with commas between them
  --env.observation_height, --env.observation_width
                             the size of the pictures that the policy was trained on
  --eval.batch_size          1: environments at a time
  --eval.n_episodes          20 a task: initial states 0 to 19

A policy folder may be a checkpoint of `fovea train`. Results: eval_info.json and videos in --output_dir.
`lerobot-eval --help` lists LeRobot's flags.

Examples
"""


def run(arguments: Sequence[str]) -> None:
    """Prepare, say what was added, and become `lerobot-eval`."""
    if not arguments or any(word in ("-h", "--help") for word in arguments):
        from fovea.cli.verbs import VERBS

        print(HELP + "\n".join(f"  {example}" for example in VERBS[PROGRAM].examples))
        return
    words, environment = prepared(arguments)
    added = " ".join(word for word in words if word not in arguments)
    print(f"lerobot-eval {added} (and the flags that you gave)", flush=True)
    os.execve(sys.executable, [sys.executable, "-m", "lerobot.scripts.lerobot_eval", *words], environment)


def prepared(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """LeRobot's arguments and its process's environment.

    Raises:
        FoveaError: no policy, another environment than LIBERO, an unknown or incomplete suite, or no GL library.
    """
    from fovea.sim.gl import prepare_gl
    from fovea.sim.lerobot_files import write_lerobot_files

    policy = _value(arguments, "--policy.path")
    if not policy:
        raise FoveaError(
            "lerobot-eval needs --policy.path, as in `--policy.path=outputs/train/checkpoints/last`"
        )
    if (kind := _value(arguments, "--env.type")) not in (None, "libero"):
        raise FoveaError(
            f"--env.type: this command prepares libero, got {kind}; run `lerobot-eval` itself for it"
        )
    prepare_gl()
    task = _value(arguments, "--env.task") or "libero_object"
    folder = write_lerobot_files([name.strip() for name in task.split(",") if name.strip()])
    environment = {"HF_HUB_OFFLINE": "1"} if Path(policy).is_dir() else {}
    environment |= os.environ | {"LIBERO_CONFIG_PATH": str(folder)}

    checkpoint = Path(policy) / "pretrained_model"
    path = str(checkpoint) if checkpoint.is_dir() else policy
    words = _replaced(arguments, "--policy.path", path)
    usual = {"--env.type": "libero", "--env.task": task, "--eval.batch_size": "1", "--eval.n_episodes": "20"}
    if size := _image_size(Path(path)):
        usual |= {"--env.observation_height": str(size), "--env.observation_width": str(size)}
    words += [f"{flag}={value}" for flag, value in usual.items() if _value(arguments, flag) is None]
    return words, environment


def _value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of `--flag=value` or `--flag value`."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None


def _replaced(arguments: Sequence[str], flag: str, value: str) -> list[str]:
    words = list(arguments)
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            words[position + 1] = value
        elif word.startswith(f"{flag}="):
            words[position] = f"{flag}={value}"
    return words


def _image_size(policy: Path) -> int | None:
    """Side of the pictures that a policy's configuration names; None if it is not here or names none."""
    path = policy / "config.json"
    features = (
        (read_json(path, "policy's configuration").get("input_features") or {}) if path.is_file() else {}
    )
    sizes = [
        feature["shape"][-1]
        for key, feature in features.items()
        if feature.get("type") == "VISUAL" and keys.EMPTY_CAMERA not in key
    ]
    return max(sizes, default=None)
