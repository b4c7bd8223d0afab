"""`fovea reproduce first`: the study in results/first.md."""

from fovea.pipelines import first
from fovea.pipelines.first import FirstConfig as Config


def run(config: Config) -> None:
    """Run or go on, then say where the table is."""
    outcome = first.run(config)
    for method, numbers in outcome["methods"].items():
        print(
            f"{method}: trained {numbers['trained']['rate']:.0%}, held out {numbers['held_out']['rate']:.0%}"
        )
    print(f"Table: {config.results}")


__all__ = ["Config", "run"]
