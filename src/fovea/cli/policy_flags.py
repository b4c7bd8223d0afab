"""Flags of a policy: `--policy.type` and `--preset` decide which `--policy.` flags there are, and their defaults."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from fovea.errors import FoveaError

PREFIX, PRESET = "--policy.", "--preset"
TYPE = f"{PREFIX}type"


@dataclass(kw_only=True)
class PolicyFlags:
    """A base for the flags of verbs that build a policy.

    `--policy.type` names the policy (ef_vla, vla_adapter, focus_vla); `--help` with it lists its own flags.

    Attributes:
        preset: sizes to start from. ef_vla: tiny, b32, b16, l14, clip (Table 5 of the paper), otter (the
            released code); vla_adapter and focus_vla: tiny, full (the papers' sizes).
    """

    preset: str = "tiny"
    policy: Any = None

    START: ClassVar[Any] = None  # the preset
    NAMED: ClassVar[frozenset[str]] = frozenset()  # fields that flags name, "vlm.layers" inside others

    @classmethod
    def for_words(cls, words: Sequence[str]) -> tuple[type, list[str]]:
        """The class whose flags are those of the policy type and preset that the words name; the other words.

        Raises:
            FoveaError: no such policy type or preset.
        """
        from fovea.pipelines.policies import config_class

        name, rest = _take(list(words), TYPE, "focus_vla")
        kind = config_class(name or "ef_vla")
        preset, _ = _take(list(words), PRESET, "tiny")
        try:
            start = kind.preset(preset or cls.preset)
        except FoveaError as error:
            raise FoveaError(f"preset: {error}") from error
        policy = _with_defaults(start)
        entry = ("policy", policy, field(default_factory=policy))
        flags = (word.partition("=")[0] for word in rest if word.startswith(PREFIX))
        named = {flag.removeprefix(PREFIX).replace("-", "_") for flag in flags}
        file, _ = _take(list(words), "--config_path", "train.yaml")
        named |= set(_named_in(file)) if file else set()
        space = {
            "START": start,
            "NAMED": frozenset(named),
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
        }
        made = make_dataclass(cls.__name__, [entry], bases=(cls,), kw_only=True, namespace=space)
        return made, rest

    def policy_config(self) -> Any:
        """The preset, with what flags or a configuration file changed.

        Non-obvious: it is built from the preset's name and the changes alone, so that what follows from a field (the
        width that goes with an encoder) follows from the one that was chosen.
        """
        return type(self.START).preset(self.preset, **self._changes(self.policy, self.START))

    def _changes(self, value: Any, start: Any, inside: str = "") -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for entry in fields(start):
            mine, theirs, name = getattr(value, entry.name), getattr(start, entry.name), inside + entry.name
            if not entry.init:
                continue
            if is_dataclass(mine):
                if nested := self._changes(mine, theirs, f"{name}."):
                    changes[entry.name] = nested
            elif mine != theirs or name in self.NAMED:
                changes[entry.name] = mine
        return changes


def _take(words: list[str], flag: str, example: str) -> tuple[str | None, list[str]]:
    """The value of a flag, the last one if given twice, and the words without it.

    Raises:
        FoveaError: the flag has no value.
    """
    value, rest = None, []
    left = iter(words)
    for word in left:
        name, has_value, given = word.partition("=")
        if name == flag:
            value = given if has_value else next(left, "")
            if not value or value.startswith("--"):
                raise FoveaError(f"{flag} needs a value, as in `{flag} {example}`")
        else:
            rest.append(word)
    return value, rest


def _named_in(file: str) -> Iterator[str]:
    """Fields of the policy that a configuration file names; what else is wrong with a file is said by who reads it.

    Raises:
        FoveaError: the file gives the policy as a single value.
    """
    import yaml

    def names(tree: Any, inside: str) -> Iterator[str]:
        for key, value in tree.items() if isinstance(tree, dict) else ():
            yield f"{inside}{key}"
            yield from names(value, f"{inside}{key}.")

    try:
        tree = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    policy = tree.get("policy") if isinstance(tree, dict) else None
    if not (policy is None or isinstance(policy, dict)):
        raise FoveaError(f"expected the policy's settings by name under `policy` in {file}, got {policy!r}")
    yield from names(policy, "")


def _with_defaults(start: Any) -> type:
    """A dataclass like that of `start` whose defaults are the values of `start`."""
    kind, hints = type(start), get_type_hints(type(start))
    entries: list[tuple[str, Any, Any]] = []
    for entry in fields(start):
        if not entry.init:
            continue
        value = getattr(start, entry.name)
        if is_dataclass(value):
            nested = _with_defaults(value)
            entries.append((entry.name, nested, field(default_factory=nested)))
        elif value is None or isinstance(value, str | int | float | bool):
            entries.append((entry.name, hints[entry.name], field(default=value)))
        else:
            entries.append((entry.name, hints[entry.name], field(default_factory=partial(deepcopy, value))))
    space = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    return make_dataclass(kind.__name__, entries, bases=(kind,), namespace=space)
