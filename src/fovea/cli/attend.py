"""`fovea attend`: what the layers of policies look at."""

import json

from fovea.pipelines import attend
from fovea.pipelines.attend import AttendConfig as Config


def run(config: Config) -> None:
    """Look, and print the table or the numbers."""
    result = attend.run(config)
    if config.json:
        print(json.dumps(result, indent=2))
        return
    print(attend.table(result))
    if result["sheets"]:
        print("Sheets:", *result["sheets"], sep="\n  ")


__all__ = ["Config", "run"]
