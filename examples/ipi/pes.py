"""Where i-PI finds models of smoothflow: ``<pes_path>pes.py</pes_path>``."""

from smoothflow.backends.engines.ipi import SmoothflowPES

__DRIVER_NAME__ = "smoothflow"
__DRIVER_CLASS__ = "SmoothflowPES"
__all__ = ["SmoothflowPES"]
