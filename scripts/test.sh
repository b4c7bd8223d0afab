#!/usr/bin/env bash
# Run the tests as CI does: offline, on a CPU, without the user's own settings in the way. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 WANDB_MODE=disabled CUDA_VISIBLE_DEVICES=
export MUJOCO_GL="${MUJOCO_GL:-osmesa}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" LP_NUM_THREADS=1
exec .venv/bin/python -m pytest "$@"
