"""LeRobot finds this module by its name and imports it: registration only, nothing heavy."""

from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig

__all__ = ["EFVLAConfig"]
