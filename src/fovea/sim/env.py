"""One LIBERO task as a fast, repeatable environment: pictures on demand, resets without recompiling."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fovea.errors import FoveaError
from fovea.sim.gl import import_libero_envs
from fovea.sim.layout import EpisodeStart, draw_layout, instruction_for
from fovea.sim.render import CAMERAS, Camera, RenderSettings
from fovea.sim.stepping import thrifty_sim, thrifty_step
from fovea.sim.suites import SETTLING_STEPS, get_task, get_tasks, suggest

if TYPE_CHECKING:
    import mujoco

ACTION_SIZE = 7
SETTLING_ACTION = np.array([0, 0, 0, 0, 0, 0, -1.0])


class LiberoEnv:
    """A LIBERO task on MuJoCo.

    Actions are (7,) in [-1, 1]: position change (1 is 5 cm), axis-angle change (1 is 0.5 rad), gripper
    (-1 opens, +1 closes). `model` and `data` are MuJoCo's own; `sim_env` is robosuite's environment.

    Args:
        suite: a suite's name; task_id: a task's number in it.
        image_size: side of the pictures in pixels; None takes it from `render`.
        render: how pictures are drawn.
        seed: draws what is drawn at construction.

    Raises:
        FoveaError: unknown suite or task, no simulator or no GL library.
    """

    def __init__(
        self,
        suite: str,
        task_id: int,
        *,
        image_size: int | None = None,
        render: RenderSettings | None = None,
        seed: int = 0,
    ):
        self.task = get_task(suite, task_id)
        render = render or RenderSettings()
        self.render_settings = dataclasses.replace(render, image_size=image_size or render.image_size)
        self.max_steps = self.task.max_steps
        self.instruction = self.task.language
        self.success = False
        self.solved_at_reset = False  # by chance, before anything was done
        self._initial_states = self.task.initial_states()
        with numpy_seed(seed):
            self.sim_env: Any = build_sim_env(str(self.task.bddl_file), self.render_settings)
        self.sim_env._observables.clear()  # state is read from the simulation, pictures are drawn on demand
        self._official_goal = self.sim_env.parsed_problem["goal_state"]
        self.model: mujoco.MjModel = self.sim_env.sim.model._model
        self.data: mujoco.MjData = self.sim_env.sim.data._data
        self.object_names: list[str] = list(self.sim_env.obj_body_id)
        self._object_of_geom = objects_of_geoms(self.model, list(self.sim_env.obj_body_id.values()))
        self._camera: Camera | None = None

    @property
    def init_state_count(self) -> int:
        return len(self._initial_states)

    def reset(self, start: EpisodeStart) -> None:
        """Start an episode, settling steps included: the same start, the same first observation, bit by bit.

        Raises:
            FoveaError: the start belongs to another task, or names a state or target that this one lacks.
        """
        self._check(start)
        robosuite_env = self.sim_env
        robosuite_env.parsed_problem["goal_state"] = self._official_goal
        self.instruction, self.success = self.task.language, False
        with numpy_seed(start.seed):
            reset_sim_env(robosuite_env)
        self.model, self.data = robosuite_env.sim.model._model, robosuite_env.sim.data._data
        gripper = robosuite_env.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)  # survives robosuite's soft resets
        sampled = self.data.qpos.copy()
        robosuite_env.sim.set_state_from_flattened(self._initial_states[start.init_state])
        if start.layout != "official":
            draw_layout(robosuite_env, start, sampled)
        if start.target is not None:
            self._retarget(start.target)
        self.data.qacc_warmstart[:] = 0
        robosuite_env.sim.forward()
        for _ in range(SETTLING_STEPS):
            self.solved_at_reset = bool(robosuite_env.step(SETTLING_ACTION)[2])

    def step(self, action: NDArray) -> bool:
        """Act for 50 ms; True once the goal holds.

        Raises:
            FoveaError: the action does not have 7 finite numbers.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (ACTION_SIZE,):
            raise FoveaError(f"an action has {ACTION_SIZE} numbers, got an array of shape {action.shape}")
        if not np.isfinite(action).all():
            raise FoveaError(
                f"an action is finite, got {action.tolist()}: check the policy and its normaliser"
            )
        self.success = bool(self.sim_env.step(action)[2])
        return self.success

    def observe(self) -> dict[str, Any]:
        """Pictures (H, W, 3) uint8 of both cameras, `state()`, and the instruction, under LeRobot's keys."""
        images = {f"observation.images.{key}": self.image(camera) for key, camera in CAMERAS.items()}
        return {**images, "observation.state": self.state(), "task": self.instruction}

    def state(self) -> NDArray[np.float32]:
        """Proprioception (8,): gripper position (m), its axis-angle (rad), two finger positions (m)."""
        robot = self.sim_env.robots[0]
        hand = self.model.body(robot.robot_model.eef_name).id
        fingers = self.data.qpos[robot._ref_gripper_joint_pos_indexes]
        position = self.data.site_xpos[robot.eef_site_id]
        return np.concatenate([position, axis_angle(self.data.xquat[hand]), fingers]).astype(np.float32)

    def image(self, camera: str) -> NDArray[np.uint8]:
        """The picture (H, W, 3) of one of LIBERO's cameras, such as "agentview"."""
        return self._drawer().image(self.data, self._camera_name(camera))

    def segmentation(self, camera: str) -> NDArray[np.int16]:
        """The object each pixel of `image(camera)` shows: (H, W), index into `object_names`, -1 elsewhere."""
        return self._object_of_geom[self._drawer().geoms(self.data, self._camera_name(camera))]

    def object_positions(self) -> dict[str, NDArray[np.float64]]:
        """World positions (3,) in metres of all objects and fixtures."""
        return {name: self.data.xpos[body].copy() for name, body in self.sim_env.obj_body_id.items()}

    def close(self) -> None:
        """Free the simulation and its GL context; may be called twice."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        if self.sim_env is not None:
            self.sim_env.close()
            self.sim_env = None

    def _drawer(self) -> Camera:
        if self._camera is None:
            self._camera = Camera(self.model, self.render_settings)
        return self._camera

    def _camera_name(self, camera: str) -> str:
        name = CAMERAS.get(camera, camera)
        names = [self.model.camera(i).name for i in range(self.model.ncam)]
        if name not in names:
            raise FoveaError(f"unknown camera {camera!r}. {suggest(camera, names)}")
        return name

    def _check(self, start: EpisodeStart) -> None:
        if (start.suite, start.task_id) != (self.task.suite, self.task.task_id):
            raise FoveaError(
                f"this environment runs {self.task.suite} task {self.task.task_id}, the start is for "
                f"{start.suite} task {start.task_id}: make another environment"
            )
        if not 0 <= start.init_state < len(self._initial_states):
            raise FoveaError(
                f"{self.task.suite} task {self.task.task_id} has initial states 0 to "
                f"{len(self._initial_states) - 1}, got {start.init_state}"
            )
        targets = [name.removesuffix("_1") for name in self.object_names if name != "basket_1"]
        if start.target is not None and start.target not in targets:
            raise FoveaError(f"{start.target!r} is not in this scene. {suggest(start.target, targets)}")

    def _retarget(self, target: str) -> None:
        languages = {task.name: task.language for task in get_tasks(self.task.suite)}
        self.instruction = instruction_for(target, languages)
        self.sim_env.parsed_problem["goal_state"] = [["in", f"{target}_1", "basket_1_contain_region"]]


def axis_angle(quaternion: NDArray) -> NDArray[np.float64]:
    """A wxyz quaternion as an axis-angle vector (3,), angle 0 to 2 pi (as robosuite and LeRobot have it)."""
    w, vector = np.clip(quaternion[0], -1.0, 1.0), quaternion[1:]
    length = np.sqrt(max(0.0, 1.0 - w * w))
    return np.zeros(3) if length < 1e-10 else vector / length * (2.0 * np.arccos(w))


def objects_of_geoms(model: mujoco.MjModel, bodies: list[int]) -> NDArray[np.int16]:
    """Object number of each geom (ngeom + 1,); -1 for others and, at index -1, for "no geom"."""
    number_of_body = np.full(model.nbody, -1, np.int16)
    for body in range(1, model.nbody):  # parents come before children
        number_of_body[body] = (
            bodies.index(body) if body in bodies else number_of_body[model.body_parentid[body]]
        )
    return np.append(number_of_body[model.geom_bodyid], np.int16(-1))


def build_sim_env(bddl_file: str, settings: RenderSettings) -> Any:
    """LIBERO's own environment for a BDDL file, compiled with our assets. Nothing global is patched."""
    problems = import_libero_envs()
    from libero.libero.envs.bddl_utils import get_problem_info
    from robosuite.controllers import load_controller_config

    problem = problems[get_problem_info(bddl_file)["problem_name"]]

    def initialize_sim(self: Any, xml_string: str | None = None) -> None:
        self.sim = thrifty_sim()(settings.compile(xml_string or self.model.get_xml()))
        self.compiled_poses = self.sim.model._model.body_pos.copy(), self.sim.model._model.body_quat.copy()
        self.sim.forward()
        self.initialize_time(self.control_freq)

    ours = {"_initialize_sim": initialize_sim, "step": thrifty_step(problem)}
    light = type(problem.__name__, (problem,), ours)
    return light(
        bddl_file,
        robots=["Panda"],
        controller_configs=load_controller_config(default_controller="OSC_POSE"),
        initialization_noise=None,
        use_camera_obs=False,
        has_offscreen_renderer=False,
        control_freq=20,
        horizon=10**9,
        ignore_done=True,
        hard_reset=False,
        camera_names=list(CAMERAS.values()),
    )


def reset_sim_env(robosuite_env: Any) -> None:
    """robosuite's soft reset; a drawing of positions that finds no room is drawn again, as LIBERO does.

    Non-obvious: LIBERO places objects on a fixture's sites (the top of a cabinet, a burner) relative to where the
    sites are before the fixture is moved to its drawn pose. After a hard reset that is the compiled pose; a soft
    reset would leave the last episode's, and the objects would fall beside the fixture.
    """
    from robosuite.utils.errors import RandomizationError

    model = robosuite_env.sim.model._model
    for _ in range(100):
        model.body_pos[:], model.body_quat[:] = robosuite_env.compiled_poses
        try:
            robosuite_env.reset()
        except RandomizationError:
            continue
        return
    raise RuntimeError(f"no placement of all objects found in 100 draws: {robosuite_env.bddl_file_name}")


@contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Seed the global generator that robosuite draws from, and give it back as it was."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
