"""Scripted experts with privileged poses: reactive skills, and plans read from the BDDL goal."""

from fovea.sim.expert.picking import NoGrasp
from fovea.sim.expert.plan import Expert, UnsupportedGoal

__all__ = ["Expert", "NoGrasp", "UnsupportedGoal"]
