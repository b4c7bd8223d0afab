"""`fovea ground`: how often the words of an instruction look at the objects they name."""

from fovea.cli.tables import show_looks
from fovea.pipelines.look_config import GroundConfig as Config


def run(config: Config) -> None:
    """Look, and print the table or the numbers."""
    from fovea.pipelines import ground

    show_looks(ground, config)


__all__ = ["Config", "run"]
