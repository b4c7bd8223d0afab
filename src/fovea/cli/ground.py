"""`fovea ground`: how often the words of an instruction look at the objects they name."""

import json

from fovea.pipelines.look_config import GroundConfig as Config


def run(config: Config) -> None:
    """Look, and print the table or the numbers."""
    from fovea.pipelines import ground

    result = ground.run(config)
    if config.json:
        print(json.dumps(result, indent=2))
        return
    print(ground.table(result))
    if result["sheets"]:
        print("Sheets:", *result["sheets"], sep="\n  ")


__all__ = ["Config", "run"]
