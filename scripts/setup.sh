#!/usr/bin/env bash
# Bring a fresh Debian or Ubuntu to the point where `make demo` runs: uv, the locked environment in .venv, off-screen GL.
#
#   scripts/setup.sh           what the demo needs
#   scripts/setup.sh --test    and what the tests need: a Chromium that opens the report
#
# Safe to run again: it does what is missing, and takes a second when nothing is. System packages are installed when run
# as root; otherwise it names all that are missing and stops. Nothing else outside this folder is changed.
#
#   FOVEA_PYTHON     a Python 3.12, where it is neither on PATH nor pyenv's
#   FOVEA_CHROMIUM   a Chromium or Chrome, where it is not on PATH
#   MUJOCO_GL        egl, to draw with a GPU's driver instead of libOSMesa
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

# --- system packages: collected first, then installed or named together -----------------------------------------------

packages=()
reasons=()
need() { # need "PACKAGE..." REASON
    packages+=($1) # several packages in one word
    reasons+=("$2")
}

is_root_with_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_lists_are_fresh=false
update_apt() {
    $apt_lists_are_fresh && return
    apt-get update -qq >/dev/null 2>&1 || say "apt-get update failed; going on with the package lists at hand"
    apt_lists_are_fresh=true
}

install_needed() {
    [ ${#packages[@]} -gt 0 ] || return 0
    local reason
    for reason in "${reasons[@]}"; do say "missing: $reason"; done
    if ! is_root_with_apt; then
        fail "install what is missing and run this again; on Debian or Ubuntu: sudo apt-get install ${packages[*]}"
    fi
    say "installing ${packages[*]}"
    update_apt
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null \
        || fail "apt-get could not install ${packages[*]}: see above"
    packages=()
    reasons=()
}

# --- Python 3.12 ------------------------------------------------------------------------------------------------------

is_python312() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }

find_python() { # prints the path of a Python 3.12: on PATH, or pyenv's whether or not its shims are on PATH
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

if ! python=$(find_python) && is_root_with_apt; then
    update_apt
    if [ -n "$(apt-cache madison python3.12 2>/dev/null)" ]; then
        need "python3.12 python3.12-venv python3.12-dev" "Python 3.12"
        install_needed
    fi
fi
[ -n "$python" ] || python=$(find_python) \
    || fail "Python 3.12 was not found. Install it (Ubuntu 24.04: sudo apt-get install python3.12 python3.12-venv" \
        "python3.12-dev; elsewhere: pyenv install 3.12), or name one: FOVEA_PYTHON=/path/to/python3.12"

# --- what the environment is built with, what LIBERO draws with, what opens the report --------------------------------

has_library() { "$python" -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library(sys.argv[1]) is None)' "$1"; }

has_headers() {
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

has_chromium() {
    local name
    for name in "${FOVEA_CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
        [ -n "$name" ] && "$name" --version >/dev/null 2>&1 && return
    done
    return 1
}

if ! ls .venv/lib/python3.12/site-packages/meshoptimizer/*.so >/dev/null 2>&1; then # the one package without a wheel
    "${CXX:-g++}" --version >/dev/null 2>&1 || need "g++ libc6-dev" "a C++ compiler, which builds meshoptimizer"
    has_headers || need python3.12-dev "the headers of Python 3.12 ($python), which meshoptimizer is built with"
fi
case "${MUJOCO_GL:-osmesa}" in
    osmesa) has_library OSMesa || need libosmesa6 "libOSMesa, with which LIBERO draws off screen" ;;
    egl) has_library EGL || need libegl1 "libEGL, with which LIBERO draws off screen (MUJOCO_GL=egl)" ;;
    *) fail "expected MUJOCO_GL to be osmesa, egl or unset, got '$MUJOCO_GL': LIBERO is drawn off screen" ;;
esac
if $with_tests && ! has_chromium; then
    need chromium "Chromium, with which the tests open the report (Chrome does too; FOVEA_CHROMIUM names one)"
fi
install_needed

# --- uv: one that works, or a private one (a system Python that is 'externally managed', PEP 668, stays as it is) ------

find_uv() {
    local candidate
    for candidate in uv "$HOME/.local/bin/uv" .uv-bootstrap/bin/uv; do
        if "$candidate" --version >/dev/null 2>&1; then # a pyenv shim may exist and still not run
            command -v "$candidate"
            return
        fi
    done
    return 1
}

install_uv() { # install_uv PYTHON: into .uv-bootstrap, by venv or, where that is missing, by pip alone
    rm -rf .uv-bootstrap
    "$1" -m venv .uv-bootstrap && .uv-bootstrap/bin/python -m pip install --quiet uv && return
    rm -rf .uv-bootstrap
    "$1" -m pip install --quiet --target .uv-bootstrap uv
}

if ! uv=$(find_uv); then
    say "installing uv into .uv-bootstrap"
    if ! output=$(install_uv "$python" 2>&1) && ! output=$(install_uv python3 2>&1); then
        printf '%s\n' "$output" >&2
        fail "could not install uv from PyPI. Is the network up? Do venv or pip work (sudo apt-get install python3-venv" \
            "python3-pip)? Any other way to install uv will do: https://docs.astral.sh/uv"
    fi
    uv=$(find_uv) || fail "uv was installed into .uv-bootstrap but does not run"
fi

# --- the locked environment -------------------------------------------------------------------------------------------

export UV_PYTHON="$python" UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"
quiet=--quiet
if [ ! -x .venv/bin/fovea ]; then
    quiet=
    say "installing the locked environment into .venv with $("$uv" --version): about 3 GB to download the first time"
fi
extras=(--extra libero --inexact) # the demo leaves extras alone that were installed before
if $with_tests; then extras=(--all-extras); fi
"$uv" sync --frozen "${extras[@]}" $quiet || fail "uv could not install the environment: see above"
