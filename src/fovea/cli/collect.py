"""`fovea collect`: demonstrations of the scripted expert as a LeRobot dataset."""

from fovea.sim import collect
from fovea.sim.collect import CollectConfig as Config


def run(config: Config) -> None:
    """Record, or go on recording, and say what there is."""
    summary = collect.run(config)
    if summary["rejected"]:
        tries = ", ".join(
            f"{count} at task {task}" for task, count in summary["rejected_by_task"].items() if count
        )
        print(f"Failed tries that were drawn again: {tries}")
    print(
        f"{summary['episodes']} episodes, {summary['frames']:,} frames in {summary['out']} "
        f"({summary['rejected']} failed tries were drawn again). Next: fovea cache --dataset {summary['out']}"
    )


__all__ = ["Config", "run"]
