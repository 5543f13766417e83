"""Growth with the size of the molecule: Ace-(Ala)n-Nme, n = 1 to 10, eager, float32."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from contenders import untrained_potential
from measuring import Measure, jittered
from peptides import capped_polyalanine
from smoothflow.core.display import count_parameters
from smoothflow.potentials.flow_potential import FlowPotential
from torch import Tensor

SIZES = [pytest.param(n, marks=[pytest.mark.slow] if n > 2 else []) for n in range(1, 11)]


@cache
def flow_of(n: int) -> tuple[FlowPotential, Tensor]:
    """An untrained flow of n alanines, and a start (nm)."""
    topology, start = capped_polyalanine(n)
    return untrained_potential(topology, start).requires_grad_(False).float(), start


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("n", SIZES)
def test_energy_and_forces(measure: Measure, n: int, batch: int) -> None:
    potential, start = flow_of(n)
    measure(
        partial(potential.energy_and_forces, jittered(start, batch, torch.float32)),
        f"energy and forces of Ace-(Ala)n-Nme, batch {batch}",
        f"Ala({n})",
        yardstick=n == 1,
        atoms=len(start),
        parameters=count_parameters(potential),
    )
