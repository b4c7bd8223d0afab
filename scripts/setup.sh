#!/usr/bin/env bash
# Bring a fresh Debian or Ubuntu to the point where `make demo` runs: uv, the locked environment in .venv, off-screen GL.
#
#   scripts/setup.sh           what the demo needs
#   scripts/setup.sh --test    and what the tests need: a Chromium that opens the report
#
# Safe to run again: it only does what is missing, and takes a second when nothing is. System packages are installed
# when run as root; otherwise it says which ones to install and stops. Nothing outside this folder is changed but that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

with_tests=false
case "${1:-}" in
    "") ;;
    --test) with_tests=true ;;
    *) echo "setup: expected --test or nothing, got '$1'" >&2; exit 2 ;;
esac

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# --- system packages -------------------------------------------------------------------------------------------------

apt_updated=false
apt_package() { # apt_package PACKAGE WHY: install as root, otherwise say what to install and stop
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "$2. Install it and run this again; on Debian or Ubuntu: sudo apt-get install $1"
    fi
    say "installing $1 ($2)"
    export DEBIAN_FRONTEND=noninteractive
    if ! $apt_updated; then
        apt-get update -qq >/dev/null || say "apt-get update failed; trying with the lists at hand"
        apt_updated=true
    fi
    # shellcheck disable=SC2086  # several packages in one string
    apt-get install -y -qq --no-install-recommends $1 >/dev/null || fail "apt-get could not install $1 ($2)"
}

has_library() { "$1" -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library(sys.argv[1]) is None)' "$2"; }

has_chromium() {
    [ -n "${FOVEA_CHROMIUM:-}" ] && return
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        "$name" --version >/dev/null 2>&1 && return
    done
    return 1
}

# --- Python 3.12 -----------------------------------------------------------------------------------------------------

is_python312() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }

find_python() { # prints the real path of a Python 3.12: on PATH, or pyenv's whether or not its shims are on PATH
    local candidate
    for candidate in "${FOVEA_PYTHON:-}" python3.12 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python /usr/local/bin/python3.12 /opt/python/3.12*/bin/python; do
        if [ -n "$candidate" ] && is_python312 "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

if ! python=$(find_python); then
    if [ "$(id -u)" = 0 ] && command -v apt-cache >/dev/null && { apt-get update -qq >/dev/null || true; } \
        && [ -n "$(apt-cache madison python3.12 2>/dev/null)" ]; then
        apt_updated=true
        apt_package "python3.12 python3.12-venv python3.12-dev" "Python 3.12"
        python=$(find_python) || fail "python3.12 was installed but does not run"
    else
        fail "Python 3.12 was not found. Install it (Ubuntu 24.04: sudo apt-get install python3.12 python3.12-venv" \
            "python3.12-dev; elsewhere: pyenv install 3.12) or name one: FOVEA_PYTHON=/path/to/python3.12"
    fi
fi

# --- uv --------------------------------------------------------------------------------------------------------------

works() { "$1" --version >/dev/null 2>&1; } # a pyenv shim may exist and still not run

find_uv() {
    local candidate
    for candidate in uv "$HOME/.local/bin/uv" .uv-bootstrap/bin/uv; do
        if works "$candidate"; then command -v "$candidate"; return; fi
    done
    return 1
}

if ! uv=$(find_uv); then
    say "installing uv into .uv-bootstrap"
    # A private folder: a system Python that is 'externally managed' (PEP 668) stays as it is.
    if ! { "$python" -m venv --clear .uv-bootstrap && .uv-bootstrap/bin/python -m pip install --quiet uv; } >/dev/null 2>&1; then
        rm -rf .uv-bootstrap
        "$python" -m pip install --quiet --target .uv-bootstrap uv >/dev/null 2>&1 || {
            rm -rf .uv-bootstrap
            apt_package "python3-venv python3-pip" "neither venv nor pip works in $python, and one must to install uv"
            /usr/bin/python3 -m venv --clear .uv-bootstrap && .uv-bootstrap/bin/python -m pip install --quiet uv \
                || fail "could not install uv from PyPI: is the network up? (https://docs.astral.sh/uv offers other ways)"
        }
    fi
    uv=$(find_uv) || fail "uv was installed into .uv-bootstrap but does not run"
fi

# --- the environment -------------------------------------------------------------------------------------------------

# One dependency (meshoptimizer) has no wheel: it is compiled, once.
if ! ls .venv/lib/python3.12/site-packages/meshoptimizer/*.so >/dev/null 2>&1; then
    "${CXX:-g++}" --version >/dev/null 2>&1 || apt_package "g++" "a C++ compiler is needed to build meshoptimizer"
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
        || apt_package "python3.12-dev" "Python's headers are needed to build meshoptimizer"
fi

before=$(date +%s)
export UV_PYTHON="$python" UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"
if [ ! -x .venv/bin/fovea ]; then
    say "installing the locked environment into .venv with $("$uv" --version) (about 3 GB to download the first time)"
    "$uv" sync --frozen --extra libero || fail "uv could not install the environment: see above"
else
    "$uv" sync --frozen --extra libero --quiet || fail "uv could not bring the environment up to date: see above"
fi

# --- GL and, for the tests, a browser --------------------------------------------------------------------------------

case "${MUJOCO_GL:-osmesa}" in
    osmesa) has_library .venv/bin/python OSMesa \
        || apt_package libosmesa6 "LIBERO draws off screen with libOSMesa, which is missing" ;;
    egl) has_library .venv/bin/python EGL \
        || apt_package libegl1 "MUJOCO_GL=egl needs libEGL, which is missing" ;;
esac
if $with_tests && ! has_chromium; then
    apt_package chromium "the tests open the report in Chromium (or Chrome; FOVEA_CHROMIUM names one), which is missing"
fi

elapsed=$(($(date +%s) - before))
[ "$elapsed" -lt 5 ] || say "ready after $elapsed s"
