"""Names of the columns in a data set and in a batch (LeRobot's own, plus the cached features)."""

IMAGES = ("observation.images.image", "observation.images.image2")
"""Agent view, wrist: the order of cameras everywhere."""
STATE = "observation.state"
ACTION = "action"
TASK = "task"
FPS = 20


def features_key(image_key: str) -> str:
    """Batch key of a camera's cached patches: 'observation.images.image' -> 'observation.features.image'."""
    return image_key.replace("observation.images.", "observation.features.")


EMPTY_CAMERA = "empty_camera"  # in the keys of cameras that LeRobot's SmolVLA makes up; no robot has them
