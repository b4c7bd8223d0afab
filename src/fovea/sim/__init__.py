"""LIBERO made fast: suites, environments, scripted experts.

Importing this package imports neither MuJoCo nor robosuite; making an environment does.
"""

from fovea.sim.gl import choose_gl

choose_gl()  # before anybody imports mujoco

from fovea.sim.env import LiberoEnv  # noqa: E402
from fovea.sim.layout import EpisodeStart  # noqa: E402
from fovea.sim.render import RenderSettings  # noqa: E402
from fovea.sim.suites import Task, get_task, get_tasks, list_suites  # noqa: E402

__all__ = ["EpisodeStart", "LiberoEnv", "RenderSettings", "Task", "get_task", "get_tasks", "list_suites"]
