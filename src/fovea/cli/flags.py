"""Command-line flags to a configuration dataclass, in the manner of LeRobot (draccus underneath).

`--workers 2`, `--workers=2`, `--optimizer.lr 1e-3` for nested dataclasses, `--config_path run.yaml` for
a file. Added to draccus: a bare boolean (`--quick`), dashes for underscores (`--output-dir`), lists
without brackets (`--tasks 0,1,2`), and a suggestion for a flag that does not exist.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from draccus.argparsing import ArgumentParser
from draccus.cfgparsing import load_config
from draccus.utils import DecodingError, DraccusException
from draccus.wrappers.docstring import get_attribute_docstring, get_preferred_help_text

from fovea.cli.app import nearest
from fovea.errors import FoveaError


def parse[T](config_class: type[T], args: Sequence[str], program: str) -> T:
    """The configuration that `args` describe.

    Args:
        config_class: a dataclass; its fields are the flags, its `__post_init__` checks them.
        program: how the user called it (`fovea train`), for messages.

    Raises:
        FoveaError: an unknown flag, a value of the wrong type, a file that is not there, or whatever
            the dataclass refuses; the message names the flag.
    """
    parser: ArgumentParser[T] = ArgumentParser(config_class, prog=program)
    flags = {option for action in parser.parser._actions for option in action.option_strings}

    def refuse(message: str) -> NoReturn:
        raise FoveaError(f"{message}. `{program} --help` lists the flags")

    parser.parser.error = refuse  # type: ignore[method-assign]
    tidy = _tidy(list(args), flags, _types(config_class), program)
    for word in tidy:
        if word.startswith("--config_path="):
            _check_file(word.partition("=")[2], program)
    try:
        return parser.parse_args(tidy)
    except (DraccusException, argparse.ArgumentError) as error:
        raise FoveaError(f"{program}: {_message(error)}") from error


def help_text(config_class: type, program: str, summary: str, examples: Sequence[str]) -> str:
    """Usage, every flag with its type, default and comment, then examples."""
    lines = [f"usage: {program} [--flag value ...]", "", summary[0].upper() + summary[1:] + ".", "", "Flags"]
    rows = list(_rows(config_class))
    rows.append(("--config_path PATH", "a YAML or JSON file with these values; flags win over it"))
    width = min(max(len(left) for left, _ in rows) + 2, 44)
    for left, right in rows:
        if len(left) + 2 > width and right:
            lines += [f"  {left}", f"  {'':<{width}}{right}"]
        else:
            lines.append(f"  {left:<{width}}{right}".rstrip())
    lines += ["", "Examples", *(f"  {example}" for example in examples)]
    return "\n".join(lines)


def _tidy(args: list[str], flags: set[str], hints: dict[str, Any], program: str) -> list[str]:
    """Check flag names; write bare booleans and bracketless lists as draccus wants them."""
    out: list[str] = []
    position = 0
    while position < len(args):
        word = args[position]
        position += 1
        if not word.startswith("--"):
            raise FoveaError(
                f"{program}: expected a --flag, got {word!r}. `{program} --help` lists the flags"
            )
        flag, has_value, value = word.partition("=")
        if flag not in flags and flag.replace("-", "_").replace("__", "--", 1) in flags:
            flag = flag.replace("-", "_").replace("__", "--", 1)
        if flag not in flags:
            shown = sorted(flags - {"-h", "--help"})
            raise FoveaError(
                f"{program}: there is no flag {flag}.{nearest(flag, shown)} Known: {' '.join(shown)}"
            )
        hint = hints.get(flag.removeprefix("--"))
        following = args[position] if position < len(args) else None
        if not has_value:
            if following is not None and not following.startswith("--"):
                value, position = following, position + 1
            elif hint is bool:
                value = "true"
            else:
                raise FoveaError(f"{program}: {flag} needs a value, as in `{flag} {_example(hint)}`")
        out += [f"{flag}={_value(value, hint)}"]
    return out


def _value(value: str, hint: Any) -> str:
    if hint is bool and value.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0"):
        return "true" if value.lower() in ("true", "yes", "on", "1") else "false"
    if _is_list(hint) and value and not value.startswith("[") and value not in ("null", "None"):
        return f"[{value}]"
    return value


def _is_list(hint: Any) -> bool:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_is_list(member) for member in typing.get_args(hint))
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


def _rows(config_class: type, prefix: str = "") -> typing.Iterator[tuple[str, str]]:
    resolved = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if not field.init:
            continue
        hint = resolved[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _rows(typing.cast(type, hint), f"{prefix}{field.name}.")
            continue
        comment = get_preferred_help_text(get_attribute_docstring(config_class, field.name)) or ""
        comment = " ".join(comment.split())
        default = _default(field)
        shown = "" if hint is bool else f" {_type_name(hint)}"
        right = f"{comment} ({default})" if comment and default else comment or default
        yield f"--{prefix}{field.name}{shown}", right


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    return "" if value is None or value is False or value == "" else f"default {value}"


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return "|".join(_type_name(m) for m in typing.get_args(hint) if m is not type(None))
    if _is_list(hint):
        members = [m for m in typing.get_args(hint) if m is not Ellipsis]
        return f"{_type_name(members[0])},..." if members else "LIST"
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    names = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
    return names.get(hint, getattr(hint, "__name__", str(hint)).upper())


def _check_file(path: str, program: str) -> None:
    """Refuse a configuration file that cannot be read or holds no names."""
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


def _message(error: Exception) -> str:
    """draccus' error in the user's words: the flag's name, or what the configuration itself refused."""
    if isinstance(error, DecodingError):
        flag = ".".join(error.key_path)
        return f"--{flag}: {error.message.strip()}" if flag else error.message.strip()
    if isinstance(error.__cause__, TypeError):
        return f"these values do not fit together: {error.__cause__}"
    return str(error.__cause__ or error)


__all__ = ["help_text", "parse"]
