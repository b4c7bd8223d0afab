"""`fovea reproduce first`: the whole study again, into results/first.md."""

from fovea.cli.tables import show_page
from fovea.pipelines import first
from fovea.pipelines.first import FirstConfig as Config


def run(config: Config) -> None:
    """All stages, then the table."""
    show_page(first, config)


__all__ = ["Config", "run"]
