"""The calculator among ASE's plug-ins, which are experimental: found by ``ase._4.plugins``, not by older lookups.

ASE imports this module when it looks for plug-ins, so nothing here may fail.
"""

from __future__ import annotations

from typing import Any

try:
    from ase._4.plugins.plugin import CalculatorPlugin
except ImportError:  # an ASE that has no such plug-ins, or keeps them elsewhere
    __ase_plugins__: frozenset[Any] = frozenset()
else:
    __ase_plugins__ = frozenset(
        {
            CalculatorPlugin(
                name="smoothflow",
                citation="Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, arXiv 2110.00351",
                implementation=f"{__package__}.calculator.SmoothflowCalculator",
            )
        }
    )
