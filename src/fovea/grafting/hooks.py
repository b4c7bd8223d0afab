"""Where LeRobot's policies turn a camera picture into tokens of their language model: the method `embed_image`.

The method is replaced on the instance, the tower stays: SmolVLA reads its dtype, and nothing of LeRobot is forked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import Tensor, nn

from fovea.errors import FoveaError

KNOWN_LEROBOT = ("0.6.1",)
METHOD = "embed_image"
OWNERS = {"smolvla": "model.vlm_with_expert", "pi05": "model.paligemma_with_expert"}


@dataclass(frozen=True)
class Hook:
    """The `embed_image` of one policy.

    Attributes:
        kind: the policy's type.
        owner: the module that has the method.
        image_size: (height, width) of the pictures that the policy hands to it.
    """

    kind: str
    owner: nn.Module
    image_size: tuple[int, int]

    def native(self, image: Tensor) -> Tensor:
        """What the policy's own class does with a picture."""
        method: Callable[..., Tensor] = getattr(type(self.owner), METHOD)
        return method(self.owner, image)

    def replace(self, stand_in: Callable[[Tensor], Tensor]) -> None:
        """Let the policy call something else.

        Raises:
            FoveaError: it does so already.
        """
        if METHOD in self.owner.__dict__:
            raise FoveaError("this backbone already carries a graft; leave that one's `with` block first")
        self.owner.__dict__[METHOD] = stand_in

    def restore(self) -> None:
        """Give the policy its own method back."""
        self.owner.__dict__.pop(METHOD, None)


def find_hook(policy: Any, kind: str, image_size: tuple[int, int]) -> Hook:
    """The hook of a LeRobot policy.

    Raises:
        FoveaError: a type without one, or a LeRobot whose policy is built otherwise.
    """
    if kind not in OWNERS:
        raise FoveaError(f"expected a backbone of type {' or '.join(OWNERS)}, got {kind!r}")
    place: Any = policy
    for name in OWNERS[kind].split("."):
        place = getattr(place, name, None)
    if not callable(getattr(place, METHOD, None)):
        raise FoveaError(
            f"expected {kind} to have the method {OWNERS[kind]}.{METHOD}, this one has none: LeRobot "
            f"{version('lerobot')} is installed, grafting is known to work with {', '.join(KNOWN_LEROBOT)}"
        )
    return Hook(kind, place, image_size)
