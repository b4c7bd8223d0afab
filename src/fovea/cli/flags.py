"""Command-line flags to a configuration dataclass, in the manner of LeRobot (draccus underneath).

`--workers 2`, `--workers=2`, `--optimizer.lr 1e-3` for nested dataclasses, `--config_path run.yaml` for
a file. Added to draccus: a bare boolean (`--quick`), dashes for underscores (`--output-dir`), lists
without brackets (`--tasks 0,1,2`, `--tasks 0 1 2`), a suggestion for a flag that does not exist, and words
without a flag for the fields that a configuration class names in `POSITIONAL` (`fovea convert otter CKPT OUT`).
"""

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from draccus.argparsing import ArgumentParser
from draccus.cfgparsing import load_config
from draccus.utils import DecodingError, DraccusException

from fovea.cli.app import nearest
from fovea.data.files import flat
from fovea.errors import FoveaError

OUTPUT = ("--out", "--output_dir", "--output")  # one thing, whatever the verb calls it
_NULLS = ("null", "None", "~")
LEROBOTS = {  # what LeRobot's commands call it -> what ours do
    "--policy.path": "--checkpoint",
    "--dataset.root": "--dataset",
    "--env.task": "--suite",
    "--env.task_ids": "--tasks",
    "--env.episode_length": "--max_steps",
    "--eval.n_episodes": "--episodes",
    "--optimizer.lr": "--learning_rate",
    "--save_freq": "--save_every",
    "--log_freq": "--log_every",
}


def parse[T](config_class: type[T], args: Sequence[str], program: str) -> T:
    """The configuration that `args` describe.

    Args:
        config_class: a dataclass; its fields are the flags, its `__post_init__` checks them.
        program: how the user called it (`fovea train`), for messages.

    Raises:
        FoveaError: an unknown flag, a value of the wrong type, a file that is not there, or whatever
            the dataclass refuses; the message names the flag.
    """
    config_class, args = class_for(config_class, args)
    parser: ArgumentParser[T] = ArgumentParser(config_class, prog=program)
    flags = {option for action in parser.parser._actions for option in action.option_strings}

    def refuse(message: str) -> NoReturn:
        raise FoveaError(f"{message}. `{program} --help` lists the flags")

    parser.parser.error = refuse  # type: ignore[method-assign]
    positional = getattr(config_class, "POSITIONAL", ())
    hints = _types(config_class)
    tidy = _tidy(list(args), flags, hints, program, positional)
    for word in tidy:
        if word.startswith("--config_path="):
            _check_file(word.partition("=")[2], hints, program)
    try:
        return parser.parse_args(tidy)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise FoveaError(
            f"{program}: a value cannot be read ({said}); write lists as 0,6,7 or '[0, 6, 7]', in quotes"
        ) from error
    except (DraccusException, argparse.ArgumentError) as error:
        raise FoveaError(f"{program}: {_message(error)}") from error


def class_for[T](config_class: type[T], args: Sequence[str]) -> tuple[type[T], list[str]]:
    """The class whose fields are the flags, and the words it leaves, for one whose flags depend on the words."""
    chosen = getattr(config_class, "for_words", None)
    return (config_class, list(args)) if chosen is None else chosen(args)


def _tidy(
    args: list[str], flags: set[str], hints: dict[str, Any], program: str, positional: Sequence[str] = ()
) -> list[str]:
    """Check flag names; write bare booleans, bracketless lists and words without a flag as draccus wants them."""
    out: list[str] = []
    position = 0
    unnamed = iter(positional)
    while position < len(args):
        word = args[position]
        position += 1
        if not word.startswith("--") and (name := next(unnamed, None)) is not None:
            out += [f"--{name}={word}"]
            continue
        if not word.startswith("--"):
            raise FoveaError(
                f"{program}: expected a --flag, got {word!r}. `{program} --help` lists the flags"
            )
        flag, has_value, value = word.partition("=")
        flag = _spelling(flag, flags)
        if flag not in flags:
            shown = sorted(flags - {"-h", "--help"})
            known = f"Known: {' '.join(shown)}" if len(shown) < 20 else f"`{program} --help` lists them"
            raise FoveaError(f"{program}: there is no flag {flag}.{nearest(flag, shown)} {known}")
        hint = hints.get(flag.removeprefix("--"))
        following = args[position] if position < len(args) else None
        if not has_value:
            if following is not None and not following.startswith("--"):
                value, position = following, position + 1
                while is_list(hint) and position < len(args) and not args[position].startswith(("--", "[")):
                    value, position = f"{value},{args[position]}", position + 1
            elif is_bool(hint):
                value = "true"
            else:
                raise FoveaError(f"{program}: {flag} needs a value, as in `{flag} {_example(hint)}`")
        if not value and is_path(hint):  # which would be the folder one stands in
            raise FoveaError(f"{program}: {flag} needs a value, as in `{flag} {_example(Path)}`")
        if value in _NULLS:
            _refuse_null(flag, hint, f"as in `{flag} {_example(hint)}`", program)
        out += [f"{flag}={_value(value, hint)}"]
    return out


def _spelling(flag: str, flags: set[str]) -> str:
    """The known flag that is meant: with underscores, or by LeRobot's name for it."""
    underscored = "--" + flag[2:].replace("-", "_")
    candidates = [flag, underscored, *(OUTPUT if underscored in OUTPUT else ())]
    candidates += [LEROBOTS[underscored]] if underscored in LEROBOTS else []
    return next((candidate for candidate in candidates if candidate in flags), flag)


def _value(value: str, hint: Any) -> str:
    if is_bool(hint) and value.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0"):
        return "true" if value.lower() in ("true", "yes", "on", "1") else "false"
    if is_list(hint) and value and not value.startswith("[") and value not in _NULLS:
        return f"[{value}]"
    return value


def _refuse_null(flag: str, hint: Any, what_to_do: str, program: str) -> None:
    """Refuse "no value" for a flag that always has one."""
    if hint not in (None, Any) and types.NoneType not in (hint, *typing.get_args(hint)):
        raise FoveaError(f"{program}: {flag} needs a value, got null; give one, {what_to_do}")


def is_bool(hint: Any) -> bool:
    """Whether a flag of this type is a switch: a bool, or one that may be left open."""
    members = typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else (hint,)
    return bool in members


def is_path(hint: Any) -> bool:
    """Whether a flag of this type is a file or a folder."""
    return Path in (typing.get_args(hint) or (hint,)) and not is_list(hint)


def is_list(hint: Any) -> bool:
    """Whether a flag of this type takes several values."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(is_list(member) for member in typing.get_args(hint))
    return (typing.get_origin(hint) or hint) in (list, tuple, Sequence)


def _example(hint: Any) -> str:
    return {int: "2", float: "0.1", Path: "outputs/demo"}.get(hint, "VALUE")


def _types(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Flag name without dashes -> type, nested dataclasses included."""
    hints: dict[str, Any] = {}
    resolved = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        hint = resolved[field.name]
        hints[prefix + field.name] = hint
        if dataclasses.is_dataclass(hint):
            hints |= _types(typing.cast(type, hint), f"{prefix}{field.name}.")
    return hints


def _check_file(path: str, hints: dict[str, Any], program: str) -> None:
    """Refuse a configuration file that cannot be read, holds no names, or a name without a value."""
    try:
        with open(path, encoding="utf-8") as stream:
            values = load_config(stream, file=path)
    except (OSError, DraccusException) as error:
        reason = error.__cause__ or error
        raise FoveaError(f"{program}: cannot read the configuration file {path}: {reason}") from error
    if not isinstance(values, dict):
        raise FoveaError(
            f"{program}: {path} should hold `name: value` lines (YAML or JSON), got {type(values).__name__}"
        )
    for name, value in flat(values).items():
        if value is None:
            _refuse_null(f"--{name}", hints.get(name), f"or leave the line out of {path}", program)


def _message(error: Exception) -> str:
    """draccus' error in the user's words: the flag's name, or what the configuration itself refused."""
    if isinstance(error, DecodingError):
        flag = ".".join(error.key_path)
        if error.message.startswith("Missing required field"):
            names = re.findall(r"`(\w+)`", error.message)
            return "needs " + ", ".join(f"--{'.'.join((*error.key_path, name))}" for name in names)
        return f"--{flag}: {error.message.strip()}" if flag else error.message.strip()
    if isinstance(error.__cause__, TypeError):
        return f"these values do not fit together: {error.__cause__}"
    return str(error.__cause__ or error)
