"""The entry point: find the verb, run it, say what went wrong in the user's words.

Exit codes: 0 done, 1 a check failed (`fovea doctor`), 2 a mistake in the call or its input, 130 interrupted.
"""

import difflib
import importlib
import os
import select
import shlex
import sys
from collections.abc import Iterable, Sequence

from fovea import __version__
from fovea.cli.verbs import VERBS, Verb
from fovea.errors import FoveaError

INTERRUPTED = 130
CUT_OFF = 141  # nobody reads what was still to be said, as the shell has it
EXTRAS = {  # packages -> what they are here for, and the extra that brings them
    **dict.fromkeys(("libero", "robosuite", "mujoco", "meshoptimizer", "bddl", "cv2"), ("LIBERO", "libero")),
    **dict.fromkeys(("transformers", "tokenizers", "peft", "timm"), ("a large VLM's packages", "vlm")),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    code = CUT_OFF
    try:
        code = _dispatch(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return code
    except FoveaError as error:
        print(f"fovea: {error}", file=sys.stderr)
        return 2
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        print(
            f"fovea: {error.filename or 'a path'}: {error.strerror or error}; choose another path",
            file=sys.stderr,
        )
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        what, extra = EXTRAS[package]
        print(
            f"fovea: this needs {what}, and {error.name} is not installed: `make setup` in a checkout, else "
            f"`pip install 'lerobot_policy_fovea[{extra}]'`",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        again = shlex.join(["fovea", *args])
        print(f"\nfovea: stopped. What was finished is kept; `{again}` goes on from there.", file=sys.stderr)
        return INTERRUPTED


def _nobody_reads() -> bool:
    """Whether standard output leads nowhere (`| head` has seen enough); what is left of it is then dropped."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLERR)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' for the known name closest to `word`, or '' when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(table_of_contents())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"fovea {__version__}")
        return 0
    name, rest = args[0], args[1:]
    if name not in VERBS:
        raise FoveaError(
            f"there is no verb {name!r}.{nearest(name, VERBS)} `fovea --help` lists them: {', '.join(VERBS)}"
        )
    verb = VERBS[name]
    module_name, program = verb.module, f"fovea {name}"
    if verb.choices is not None:
        if not rest or rest[0] in ("-h", "--help"):
            print(_choices_help(name, verb))
            return 0
        choice, rest = rest[0], rest[1:]
        if choice not in verb.choices:
            known = ", ".join(verb.choices)
            raise FoveaError(
                f"`fovea {name}` does not know {choice!r}.{nearest(choice, verb.choices)} It knows: {known}"
            )
        module_name, program = verb.choices[choice][0], f"{program} {choice}"

    from fovea.cli import flags, quiet, usage

    quiet.silence()
    module = importlib.import_module(module_name)
    if verb.hands_over:
        module.run(rest)
        return 0
    if any(arg in ("-h", "--help") for arg in rest):
        config_class, _ = flags.class_for(module.Config, rest)
        print(usage.help_text(config_class, program, verb.summary, verb.examples))
        return 0
    code = module.run(flags.parse(module.Config, rest, program))
    return code if isinstance(code, int) else 0


def table_of_contents() -> str:
    """What `fovea --help` prints: every verb under its heading, then examples."""
    lines = [
        f"fovea {__version__}: vision-language-action policies that look at the right place",
        "",
        "usage: fovea VERB [--flag value ...]",
        "       fovea VERB --help            its flags and examples",
    ]
    section = None
    width = max(map(len, VERBS)) + 2
    for name, verb in VERBS.items():
        if verb.section != section:
            section = verb.section
            lines += ["", section]
        lines.append(f"  {name:<{width}}{verb.summary}")
    lines += [
        "",
        "Examples",
        "  fovea demo --quick                           two minutes: does everything work here?",
        "  fovea demo                                   twenty minutes: a policy, its success, a report",
        "  fovea reproduce first                        hours: the study in results/first.md",
        "",
        "A run that was stopped goes on when the same command is given again. HF_HUB_OFFLINE=1 is respected.",
    ]
    return "\n".join(lines)


def _choices_help(name: str, verb: Verb) -> str:
    assert verb.choices is not None
    lines = [
        f"usage: fovea {name} NAME [--flag value ...]",
        "",
        verb.summary[0].upper() + verb.summary[1:],
        "",
    ]
    width = max(map(len, verb.choices)) + 2
    lines += [f"  {choice:<{width}}{summary}" for choice, (_, summary) in verb.choices.items()]
    lines += ["", "Examples", *(f"  {example}" for example in verb.examples)]
    return "\n".join(lines)
