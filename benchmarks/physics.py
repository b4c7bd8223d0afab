"""Are the light scenes' physics arrays those of stock LIBERO? `python benchmarks/physics.py --out results/physics.md`.

Every distinct scene of every suite that can be run, or of those that are named; a second or two a scene, more where
meshes are made light for the first time. Exit code 1 if any array differs.
"""

import argparse
import sys
from pathlib import Path

from fovea.pipelines.stages import current_commit
from fovea.progress import progress_bar
from fovea.sim import RenderSettings, list_suites
from fovea.sim.physics import differences, distinct_scenes, scene_xml
from fovea.sim.suites import get_tasks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", nargs="*", default=list_suites())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scenes = distinct_scenes(options.suites)
    wrong, faces = [], [0, 0]
    with progress_bar() as bar:
        job = bar.add_task("scenes", total=len(scenes), note="")
        for task in scenes:
            xml = scene_xml(task)
            light, stock = RenderSettings().compile(xml), RenderSettings(stock=True).compile(xml)
            faces = [faces[0] + light.nmeshface, faces[1] + stock.nmeshface]
            if names := differences(light, stock):
                wrong.append(f"{task.suite} task {task.task_id}: {', '.join(names)}")
            bar.update(job, advance=1, note=f"{len(wrong)} differ")
    tasks = sum(len(get_tasks(suite)) for suite in options.suites)
    text = (
        f"{len(scenes)} distinct scenes of {len(options.suites)} suites ({tasks} tasks): in {len(scenes) - len(wrong)} "
        f"every physics array equals stock LIBERO's to the bit; {faces[0] / faces[1]:.0%} of the triangles are left.\n"
    )
    text += "".join(f"- {line}\n" for line in wrong)
    print(text, end="")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            f"# Physics of the light scenes\n\n`python benchmarks/physics.py` (commit {current_commit()})\n\n{text}"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
