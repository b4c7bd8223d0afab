"""`fovea describe`: the sizes and parameters of a policy type or of a checkpoint."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fovea.cli.policy_flags import PRESET, TYPE, PolicyFlags

ALIASES = {"vla_adapter_pro": ("vla_adapter", "--policy.variant=pro", "--policy.compat=true")}


@dataclass(kw_only=True)
class Config(PolicyFlags):
    """Which policy, and how to print it.

    Attributes:
        name: a policy type (ef_vla, vla_adapter, focus_vla; vla_adapter_pro stands for the public weights' pro, compat)
            or the folder of a checkpoint.
        preset: sizes of a policy type; full where there is one, else tiny.
        json: print JSON.
    """

    name: str
    json: bool = False

    POSITIONAL: ClassVar[tuple[str, ...]] = ("name",)

    @classmethod
    def for_words(cls, words: Sequence[str]) -> tuple[type, list[str]]:
        """The flags of the type that the first word names; a checkpoint has none but its own."""
        words = list(words)
        name = _first_name(words)
        kind = (name or "").replace("-", "_")
        more: tuple[str, ...] = ()
        if kind in ALIASES:
            kind, *rest = ALIASES[kind]
            more = tuple(rest)
        if name is None or Path(name).is_dir():
            return cls, words
        from fovea.pipelines.policies import config_class, presets

        known = {f"--{field}" for field in config_class(kind).__dataclass_fields__}
        own = {f"--{field}" for field in cls.__dataclass_fields__}
        words = [
            f"--policy.{word[2:]}" if re.split(r"[.=]", word)[0] in known - own else word for word in words
        ]
        if not any(word.partition("=")[0] == PRESET for word in words):
            words.append(f"{PRESET}={'full' if 'full' in presets(kind) else 'tiny'}")
        return super().for_words([*words, *more, TYPE, kind])


def _first_name(words: Sequence[str]) -> str | None:
    """The first word that is neither a flag nor its value (`--json` alone has none)."""
    value_follows = False
    for word in words:
        if not word.startswith("--") and not value_follows:
            return word
        value_follows = word.startswith("--") and "=" not in word and word != "--json"
    return None


def run(config: Config) -> None:
    """Count and print."""
    from fovea.pipelines.describe import describe_checkpoint, describe_policy

    if Path(config.name).is_dir():
        described = describe_checkpoint(Path(config.name))
    else:
        described = {"preset": config.preset, **describe_policy(config.policy_config())}
    print(json.dumps(described, indent=2) if config.json else table(described))


def table(described: dict[str, Any]) -> str:
    """The description for people."""
    lines = [f"{described['title']} ({described['type']}, {described.get('preset', 'checkpoint')})", ""]
    sizes = described.get("sizes", {}).items()
    lines += [f"  {name.replace('_', ' '):<20}{value}" for name, value in sizes if value is not None]
    lines += ["", "  parameters"]
    parameters = described["parameters"].items()
    lines += [f"    {name.replace('_', ' '):<18}{value:>14,}" for name, value in parameters]
    return "\n".join(lines)
