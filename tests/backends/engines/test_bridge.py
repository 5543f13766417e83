"""What every engine's border does alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from smoothflow.backends.engines.bridge import Evaluator
from smoothflow.backends.engines.ipi import SmoothflowPES
from smoothflow.backends.engines.openmm import OpenMMPotential
from smoothflow.core.errors import SimulationError, TopologyError
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Atom, Topology
from torch import Tensor


class Offset(Potential):
    """An energy that is not finite, with forces that are."""

    shape = (2, 3)

    def energy(self, positions: Tensor) -> Tensor:
        return positions.sum((1, 2)) + torch.inf


def test_an_energy_alone_that_is_not_finite_is_named() -> None:
    with pytest.raises(SimulationError, match=r"In this configuration the energy is not finite\. Use a smaller"):
        Evaluator(Offset(), "The test")(np.zeros((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_buffers_without_floating_point_leave_the_precision_at_its_default(dtype: torch.dtype) -> None:
    assert Offset().dtype == torch.float64
    other = Offset()
    other.register_buffer("absent", None)
    other.register_buffer("order", torch.arange(3))
    other.register_buffer("scale", torch.ones(2, dtype=dtype))
    assert (other.dtype, other.device) == (dtype, torch.device("cpu"))


def test_one_thread_unless_somebody_chose(model: Path, positions: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    pes = SmoothflowPES(str(model))
    x = positions[0].numpy() / 0.0529177210903
    before = torch.get_num_threads()
    try:
        for chosen, expected in (("2", 2), (None, 1)):
            torch.set_num_threads(2)
            if chosen is None:
                monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            else:
                monkeypatch.setenv("OMP_NUM_THREADS", chosen)
            pes(1e3 * np.eye(3), x)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_an_ase_without_plugins_finds_none() -> None:
    code = (
        # ASE looks while it starts: torch must be neither waited for nor needed
        "import sys\nsys.modules['ase._4.plugins.plugin'] = sys.modules['torch'] = None\n"
        "from smoothflow.backends.engines.ase import registration\nprint(len(registration.__ase_plugins__))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "0\n"


def test_an_element_that_openmm_does_not_know_is_named() -> None:
    system = openmm.System()
    system.addParticle(1.0)
    with pytest.raises(TopologyError, match=r'OpenMM does not know the element "Qq" of atom 0 \(MOL1-Q1\)'):
        OpenMMPotential(system, Topology((Atom("Qq", "Q1", "MOL", 0),), ()))
