"""The `fovea` command.

    verbs.py    the table of contents: every verb, its module, its examples
    app.py      finds the verb, turns a user's mistake into a message, sets the exit code
    flags.py    flags to a configuration, through draccus, with suggestions for a typo
    <verb>.py   one module a verb: `Config`, a dataclass, and `run(config)`

Nothing heavy (torch, LeRobot, MuJoCo, draccus) is imported before a verb runs.
"""

from fovea.cli.app import main

__all__ = ["main"]
