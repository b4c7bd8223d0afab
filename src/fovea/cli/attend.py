"""`fovea attend`: what the layers of policies look at."""

import json

from fovea.pipelines.look_config import AttendConfig as Config


def run(config: Config) -> None:
    """Look, and print the table or the numbers."""
    from fovea.pipelines import attend

    result = attend.run(config)
    if config.json:
        print(json.dumps(result, indent=2))
        return
    print(attend.table(result))
    if result["sheets"]:
        print("Sheets:", *result["sheets"], sep="\n  ")


__all__ = ["Config", "run"]
