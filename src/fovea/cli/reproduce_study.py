"""What `fovea reproduce` does for a study of cells: run what is missing, print the page."""

from fovea.cli.tables import show_page
from fovea.pipelines import study


def run(config: study.StudyConfig) -> None:
    """All cells that are missing, then the page."""
    show_page(study, config)
