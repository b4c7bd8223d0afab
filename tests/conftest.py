"""Settings of every test, however pytest is started: offline, on a CPU, one thread; the user's own stay out of it.

Sums of floats depend on the number of threads, and tests compare processes bit by bit. That this file is here also
makes the modules beside it importable from every room of the tests.
"""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",
    "CUDA_VISIBLE_DEVICES": "",
    "LP_NUM_THREADS": "1",
}
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("OMP_NUM_THREADS", "1")
