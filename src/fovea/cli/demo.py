"""`fovea demo`: from nothing to a measured policy and a report."""

from fovea.pipelines import demo
from fovea.pipelines.demo import DemoConfig as Config


def run(config: Config) -> None:
    """Run or go on, then say what came out and where the page is."""
    data = demo.run(config)
    success = data["success"]
    low, high = success["interval"]
    print(
        f"{success['successes']} of {success['episodes']} episodes succeeded ({success['rate']:.0%}, 95 % interval "
        f"{low:.0%} to {high:.0%}) after {data['wall_seconds'] / 60:.1f} minutes. Report: {config.out / 'report.html'}"
    )
    if config.quick:
        print("--quick only shows that everything works; its success rate means nothing. Next: fovea demo")


__all__ = ["Config", "run"]
