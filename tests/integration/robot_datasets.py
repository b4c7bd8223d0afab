"""Two small LeRobot data sets: as `fovea collect` writes them, and as somebody's own robot gives them."""

from pathlib import Path
from typing import Any

import numpy as np

from fovea.data.record import assemble
from fovea.data.staging import write_episode

SIDE = 64
CAMERA, JOINTS = "observation.images.front", 6


def libero_like(folder: Path, *, scale: float = 1.0) -> Path:
    """Three short episodes with LIBERO's two cameras, states of 8 and actions of 7 numbers; the gripper is -1 or +1."""
    rng = np.random.default_rng(0)
    for number, steps in enumerate((9, 14, 7)):
        pictures = rng.integers(0, 255, (steps, 2, SIDE, SIDE, 3), dtype=np.uint8)
        action = scale * rng.uniform(-0.5, 0.5, (steps, 7))
        action[:, 3:6] *= 0.1
        action[:, 6] = np.where(rng.random(steps) > 0.5, 1.0, -1.0)
        header: dict[str, Any] = {"start": {"suite": "libero_object"}, "split": "train"}
        header["task"] = "pick up the milk and place it in the basket"
        state = rng.normal(size=(steps, 8))
        state[:, 7] = -state[:, 6]  # two fingers
        write_episode(folder / "staging", number, images=pictures, state=state, action=action, header=header)
    return assemble(folder / "staging", folder / "set", {}, progress=False)


def own_robot(folder: Path) -> Path:
    """Recorded with LeRobot's own tools: one camera of another name and shape, joints in degrees, 10 Hz."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (JOINTS,), "names": [f"joint_{i}" for i in range(JOINTS)]}
    picture = {"dtype": "image", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    features = {CAMERA: picture, "observation.state": vector, "action": dict(vector)}
    dataset = LeRobotDataset.create("somebody/arm", fps=10, features=features, root=folder / "arm")
    rng = np.random.default_rng(1)
    for _ in range(2):
        for _ in range(12):
            pose = rng.uniform(30, 60, JOINTS).astype(np.float32)
            shown = rng.integers(0, 255, picture["shape"], dtype=np.uint8)
            frame = {CAMERA: shown, "observation.state": pose, "action": pose + 1}
            dataset.add_frame(frame | {"task": "put the sock in the box"})
        dataset.save_episode()
    dataset.finalize()
    return folder / "arm"
