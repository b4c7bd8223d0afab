"""LeRobot finds this module by its name and imports it: registration only, nothing heavy."""

from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.focus_vla.configuration_focus_vla import FocusVLAConfig
from fovea.policies.vla_adapter.configuration_vla_adapter import VLAAdapterConfig

__all__ = ["EFVLAConfig", "FocusVLAConfig", "VLAAdapterConfig"]
