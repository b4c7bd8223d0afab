"""From policy tokens to a chunk of future actions."""

from fovea.heads.regression import RegressionHead

__all__ = ["RegressionHead"]
