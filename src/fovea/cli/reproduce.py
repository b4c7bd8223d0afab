"""`fovea reproduce first`: the whole study again, into results/first.md."""

from fovea.pipelines import first
from fovea.pipelines.first import FirstConfig as Config


def run(config: Config) -> None:
    """All stages, then the table."""
    first.run(config)
    print(config.results.read_text())
    print(f"Written to {config.results}")


__all__ = ["Config", "run"]
