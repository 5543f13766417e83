"""What i-PI loads to compute energies and forces with a model."""

from smoothflow import SmoothflowPES

__all__ = ["SmoothflowPES"]
__DRIVER_NAME__ = "smoothflow"
__DRIVER_CLASS__ = "SmoothflowPES"
