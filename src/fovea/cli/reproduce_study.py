"""What `fovea reproduce` does for a study of cells: run what is missing, print the page."""

from fovea.pipelines import study


def run(config: study.StudyConfig) -> None:
    """All cells that are missing, then the page."""
    study.run(config)
    print(config.results.read_text())
    print(f"Written to {config.results}")
