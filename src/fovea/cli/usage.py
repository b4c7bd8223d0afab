"""What `fovea VERB --help` prints: every flag with its type, its description and its default.

A description is the field's entry under `Attributes:` or `Args:` in the class docstring, or the comment beside it.
"""

import dataclasses
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from draccus.wrappers.docstring import get_attribute_docstring, get_preferred_help_text

from fovea.cli.flags import is_list


def help_text(config_class: type, program: str, summary: str, examples: Sequence[str]) -> str:
    """Usage, every flag with its type, default and comment, then examples."""
    rows = sorted(_rows(config_class), key=lambda row: not row[1].endswith("(required)"))
    rows.append(("--config_path PATH", "a YAML or JSON file with these values; flags win over it"))
    positional = "".join(f" {name.upper()}" for name in getattr(config_class, "POSITIONAL", ()))
    usage = f"usage: {program}{positional} [--flag value ...]"
    lines = [usage, "", summary[0].upper() + summary[1:] + ".", "", "Flags"]
    left = min(max(len(flag) for flag, _ in rows) + 4, 34)
    for flag, description in rows:
        text = textwrap.wrap(description, max(shutil.get_terminal_size((110, 24)).columns - left, 30)) or [""]
        first = f"  {flag}"
        if len(first) >= left and description:
            lines.append(first)
            first = ""
        lines += [f"{first:<{left}}{text[0]}".rstrip(), *(" " * left + rest for rest in text[1:])]
    lines += ["", "Examples", *(f"  {example}" for example in examples)]
    return "\n".join(lines)


def _rows(config_class: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    resolved = typing.get_type_hints(config_class)
    described: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        described |= _attributes(inspect.cleandoc(base.__doc__ or ""))
    for field in dataclasses.fields(config_class):
        if not field.init:
            continue
        hint = resolved[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _rows(typing.cast(type, hint), f"{prefix}{field.name}.")
            continue
        comment = described.get(field.name, "") or _beside(config_class, field.name)
        default = _default(field)
        shown = "" if hint is bool and field.default is False else f" {_type_name(hint)}"
        right = f"{comment} ({default})" if comment and default else comment or default
        yield f"--{prefix}{field.name}{shown}", right


def _attributes(docstring: str) -> dict[str, str]:
    """Field name -> text, from the `Attributes:` or `Args:` section of a class docstring."""
    _, *found = re.split(r"^(?:Attributes|Args):\n", docstring, maxsplit=1, flags=re.MULTILINE)
    section = re.split(r"\n\S", found[0])[0] if found else ""
    entries = re.findall(r"^    (\w[\w, ]*): (.+(?:\n {6,}.+)*)", section, flags=re.MULTILINE)
    return {name.strip(): _sentence(text) for names, text in entries for name in names.split(",")}


def _beside(config_class: type, name: str) -> str:
    """The comment or docstring beside a field."""
    text = get_preferred_help_text(get_attribute_docstring(config_class, name)) or ""
    return _sentence(re.sub(r"^type: ignore.*", "", text))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return "" if value is None or value is False or value == "" else f"default {value}"


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return "|".join(_type_name(m) for m in typing.get_args(hint) if m is not type(None))
    if is_list(hint):
        members = [m for m in typing.get_args(hint) if m is not Ellipsis]
        return f"{_type_name(members[0])},..." if members else "LIST"
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    names = {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false", Path: "PATH"}
    return names.get(hint, getattr(hint, "__name__", str(hint)).upper())


def _sentence(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")
