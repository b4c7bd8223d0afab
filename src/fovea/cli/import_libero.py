"""`fovea import libero`: official LIBERO demonstrations (HDF5) as a LeRobot dataset."""

from fovea.data import import_libero
from fovea.data.import_libero import LiberoImportConfig as Config


def run(config: Config) -> None:
    """Import, or go on importing, and say what there is."""
    from fovea.sim import RenderSettings

    def render(side: int) -> dict:
        return RenderSettings(image_size=side, stock=True).asdict()

    summary = import_libero.run(config, render)
    for sentence in summary["notes"]:
        print(f"note: {sentence}")
    for sentence in summary["refused"]:
        print(f"left out: {sentence}")
    print(
        f"{summary['episodes']} episodes, {summary['frames']:,} frames in {summary['out']} "
        f"({len(summary['refused'])} left out). Next: fovea cache --dataset {summary['out']}"
    )


__all__ = ["Config", "run"]
