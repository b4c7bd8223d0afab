"""`fovea demo`: from nothing to a measured policy and a report."""

from fovea.pipelines import demo
from fovea.pipelines.demo import DemoConfig as Config


def run(config: Config) -> None:
    """All stages, then what came out and where the page is."""
    data = demo.run(config)
    success = data["success"]
    low, high = success["interval"]
    if config.quick:
        print(
            "Everything works here. That was --quick: the numbers mean nothing; `fovea demo` makes real ones."
        )
    else:
        print(
            f"Success: {success['successes']} of {success['episodes']} episodes "
            f"({success['rate']:.0%}, 95 % interval {low:.0%} to {high:.0%}) in {data['wall_seconds'] / 60:.0f} minutes"
        )
    print(f"Report: {config.out / 'report.html'}")


__all__ = ["Config", "run"]
