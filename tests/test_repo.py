"""What the repository holds: nothing from one particular machine, nothing to unpickle, a small encoder."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MACHINE_PATH = re.compile(rb"(?<![\w.~$/}])/(?:home|Users|root|work|mnt|scratch)/\w")
PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".npy"}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files under version control; in an unpacked source archive, all of them but what tools leave behind."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        names = [Path(name) for name in done.stdout.split("\0") if name]
    else:
        names = [
            p.relative_to(ROOT)
            for part in ("src", "tests", "docs", "scripts")
            for p in (ROOT / part).rglob("*")
        ]
        names = [name for name in names if "__pycache__" not in name.parts]
    return [name for name in names if (ROOT / name).is_file()]


def test_no_file_names_a_place_on_somebodys_machine(tracked):
    found = []
    for name in tracked:
        content = (ROOT / name).read_bytes()
        if b"\0" not in content[:8192] and name.name != Path(__file__).name and MACHINE_PATH.search(content):
            found.append(str(name))
    assert found == []


def test_nothing_is_pickled(tracked):
    assert [str(name) for name in tracked if name.suffix in PICKLED] == []
    uses = re.compile(
        r"\bimport pickle\b|\bpickle\.load|torch\.load\((?!.*weights_only=True)|allow_pickle=True|weights_only=False"
    )
    code = [name for name in tracked if name.suffix == ".py" and name.parts[0] == "src"]
    assert code
    assert [str(name) for name in code if uses.search((ROOT / name).read_text())] == []


def test_the_shipped_encoder_is_small(tracked):
    weights = [ROOT / name for name in tracked if name.suffix == ".safetensors" and name.parts[0] == "src"]
    assert sum(path.stat().st_size for path in weights) <= 10e6


def test_the_import_contract_holds():
    """The contract itself is in pyproject.toml."""
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0
