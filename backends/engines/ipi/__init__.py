"""i-PI as an engine; and model files as a potential-energy surface in i-PI's own input.

A file of two lines beside the input makes i-PI find the class (``examples/ipi`` is complete):

>>> from smoothflow.backends.engines.ipi import SmoothflowPES
>>> __DRIVER_NAME__, __DRIVER_CLASS__ = "smoothflow", "SmoothflowPES"

.. code-block:: xml

    <ffdirect name='smoothflow'>
      <pes>custom</pes> <pes_path>pes.py</pes_path>
      <parameters>{model: model.safetensors, structure: molecule.pdb}</parameters>
    </ffdirect>
"""

from __future__ import annotations

from collections.abc import Mapping

from ....core.engine import Engine
from ....core.plugins import hookimpl
from .engine import IPIEngine
from .pes import SmoothflowPES

__all__ = ["IPIEngine", "SmoothflowPES"]


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    return {IPIEngine.name: IPIEngine}
