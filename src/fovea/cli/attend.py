"""`fovea attend`: what the layers of policies look at."""

from fovea.cli.tables import show_looks
from fovea.pipelines.look_config import AttendConfig as Config


def run(config: Config) -> None:
    """Look, and print the table or the numbers."""
    from fovea.pipelines import attend

    show_looks(attend, config)


__all__ = ["Config", "run"]
