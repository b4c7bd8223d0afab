"""The same LIBERO task in three simulators: upstream's own, LeRobot's, and ours, each in a process of its own.

What a comparison asks of each: construct it, start an episode, play actions with both cameras' pictures, show the
pictures of a given pose. One thread for everything, so that figures are per core.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fovea.errors import FoveaError
from fovea.sim.env import SETTLING_ACTION, LiberoEnv
from fovea.sim.gl import import_libero_envs, single_threaded_children
from fovea.sim.layout import EpisodeStart
from fovea.sim.render import CAMERAS, RenderSettings
from fovea.sim.suites import SETTLING_STEPS, get_task

Clock = Literal["wall", "cpu"]
Pose = dict[str, NDArray[np.float64]]  # state (1 + nq + nv,), body_pos (nbody, 3), body_quat (nbody, 4)
Pictures = dict[str, NDArray[np.uint8]]  # LIBERO's camera name -> (H, W, 3), as the field's data sets show it


class Peer(Protocol):
    """One simulator of a task."""

    def reset(self, state: int) -> None:
        """Start an episode from an initial state, the ten settling steps included."""

    def step(self, action: NDArray, *, look: bool) -> None:
        """Act for 50 ms; `look` says whether anybody reads the pictures afterwards."""

    def state(self) -> NDArray[np.float64]:
        """(1 + nq + nv,): time, positions, velocities."""


class Stock:
    """LIBERO's OffScreenRenderEnv: draws after every step, resets by compiling anew."""

    def __init__(self, suite: str, task_id: int, image_size: int):
        import_libero_envs()
        from libero.libero.envs import OffScreenRenderEnv

        task = get_task(suite, task_id)
        self.states = task.initial_states()
        sizes = {"camera_heights": image_size, "camera_widths": image_size}
        self.env: Any = OffScreenRenderEnv(bddl_file_name=str(task.bddl_file), **sizes)

    def reset(self, state: int) -> None:
        self.env.reset()
        self.env.set_init_state(self.states[state])
        for _ in range(SETTLING_STEPS):
            self.env.step(SETTLING_ACTION)

    def step(self, action: NDArray, *, look: bool) -> None:
        self.env.step(action)

    def state(self) -> NDArray[np.float64]:
        return np.asarray(self.env.get_sim_state())

    def pictures(self, pose: Pose) -> Pictures:
        """What the cameras show of a pose of this scene."""
        model = self.env.sim.model._model
        model.body_pos[:], model.body_quat[:] = pose["body_pos"], pose["body_quat"]
        shown = self.env.regenerate_obs_from_state(pose["state"])
        return {name: shown[f"{name}_image"][::-1, ::-1] for name in CAMERAS.values()}


class LeRobot:
    """LeRobot's gym environment, set up as `lerobot-eval --env.type=libero` does, without its vector wrapper."""

    def __init__(self, suite: str, task_id: int, image_size: int):
        from fovea.sim.lerobot_files import write_lerobot_files

        os.environ["LIBERO_CONFIG_PATH"] = str(write_lerobot_files([suite]))
        import_libero_envs()
        from lerobot.envs.libero import LiberoEnv as LeRobotEnv
        from libero.libero import benchmark

        self.env = LeRobotEnv(
            task_suite=benchmark.get_benchmark_dict()[suite](),
            task_id=task_id,
            task_suite_name=suite,
            obs_type="pixels_agent_pos",
            observation_width=image_size,
            observation_height=image_size,
        )
        self.env._ensure_env()

    def reset(self, state: int) -> None:
        self.env.init_state_id = state
        self.env.reset(seed=0)

    def step(self, action: NDArray, *, look: bool) -> None:
        self.env.step(action)

    def state(self) -> NDArray[np.float64]:
        assert self.env._env is not None
        return np.asarray(self.env._env.get_sim_state())


class Ours:
    """`fovea.sim.LiberoEnv`."""

    stock = False

    def __init__(self, suite: str, task_id: int, image_size: int):
        self.suite, self.task_id = suite, task_id
        self.env = LiberoEnv(suite, task_id, render=RenderSettings(image_size=image_size, stock=self.stock))

    def reset(self, state: int) -> None:
        self.env.reset(EpisodeStart(self.suite, self.task_id, state))

    def step(self, action: NDArray, *, look: bool) -> None:
        self.env.step(action)
        if look:
            self.env.observe()

    def state(self) -> NDArray[np.float64]:
        return np.asarray(self.env.sim_env.sim.get_state().flatten())

    def shown(self) -> tuple[Pose, Pictures]:
        """The present pose and the pictures of it.

        Non-obvious: after a step MuJoCo's positions in space are still those of 2 ms ago, until `forward`.
        """
        self.env.sim_env.sim.forward()
        model = self.env.model
        pose = {"state": self.state(), "body_pos": model.body_pos.copy(), "body_quat": model.body_quat.copy()}
        return pose, {name: self.env.image(name) for name in CAMERAS.values()}


class OursAsStock(Ours):
    """`fovea.sim.LiberoEnv` that draws as upstream does."""

    stock = True


PEERS: dict[str, type[Stock | LeRobot | Ours]] = {
    "stock": Stock,
    "lerobot": LeRobot,
    "fovea": Ours,
    "fovea_stock": OursAsStock,
}
TIMED = ("construct", "reset", "play")


class PeerProcess:
    """A peer in a process of its own: the GL contexts of upstream's environments share one process badly.

    Args:
        kind: key of `PEERS`.
        suite: suite; task_id: a task's number in it.
        image_size: side of both cameras' pictures, pixels.
        clock: seconds on the "wall", or seconds of "cpu" time, which other work on the machine does not stretch.

    Raises:
        FoveaError: from any method, if the simulator fails.
    """

    def __init__(self, kind: str, suite: str, task_id: int, image_size: int, clock: Clock = "wall"):
        self.kind = kind
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, kind, (suite, task_id, image_size), clock)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        with single_threaded_children():
            self._process.start()
        theirs.close()

    def construct(self) -> float:
        """Seconds until the first reset can be asked for; imports are not counted."""
        return float(self.call("construct"))

    def reset(self, state: int) -> float:
        """Seconds."""
        return float(self.call("reset", state))

    def play(self, actions: NDArray, look_every: int) -> float:
        """Seconds for the actions (n, 7); pictures are read after every `look_every`-th (0: never)."""
        return float(self.call("play", actions, look_every))

    def call(self, name: str, *arguments: Any) -> Any:
        """Ask, and wait for the answer."""
        self.ask(name, *arguments)
        return self.answer()

    def ask(self, name: str, *arguments: Any) -> None:
        with contextlib.suppress(OSError):  # a process that has died is found when it is to answer
            self._pipe.send((name, arguments))

    def answer(self) -> Any:
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise FoveaError(
                f"the process that simulates with {self.kind} died (exit code {self._process.exitcode}); what it "
                "printed above says why"
            ) from error
        if kind == "error":
            raise FoveaError(f"{self.kind} cannot simulate this task: {content}")
        return content

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve(pipe: Any, kind: str, arguments: tuple[str, int, int], clock: Clock) -> None:
    """The child: answers until its pipe is closed. What LIBERO prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    now = time.process_time if clock == "cpu" else time.perf_counter
    peer: Any = None
    try:
        import_libero_envs()
        while True:
            name, given = pipe.recv()
            begin, answer = now(), None
            if name == "construct":
                peer = PEERS[kind](*arguments)
            elif name == "play":
                actions, every = given
                for number, action in enumerate(actions, start=1):
                    peer.step(action, look=every > 0 and number % every == 0)
            else:
                answer = getattr(peer, name)(*given)
            pipe.send(("done", now() - begin if name in TIMED else answer))
    except EOFError:
        return
    except FoveaError as error:  # any other ends this process with a traceback, which the parent points to
        pipe.send(("error", str(error)))
