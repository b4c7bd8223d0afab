"""Short episodes of smoothly moving pictures, the same for the same number."""

import numpy as np

LENGTHS = (9, 14, 7)


def make_episode(number: int, steps: int, size: int = 32) -> dict:
    rng = np.random.default_rng(number)
    tile = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((size // 4, size // 4, 1))).astype(np.uint8)
    images = np.stack(
        [[np.roll(tile, (step, camera * step), (0, 1)) for camera in (0, 1)] for step in range(steps)]
    )
    state = rng.normal(size=(steps, 8)).astype(np.float32)
    state[:, 7] = -state[:, 6]  # fingers mirror one another
    action = rng.uniform(-1, 1, (steps, 7)).astype(np.float32)
    action[:, 6] = np.sign(action[:, 6])  # the gripper opens or closes
    return {
        "images": images,
        "state": state,
        "action": action,
        "header": {
            "start": {"suite": "libero_object", "task_id": number, "init_state": 0},
            "task": f"pick up number {number % 2}",
            "split": "val" if number == 2 else "train",
        },
    }
