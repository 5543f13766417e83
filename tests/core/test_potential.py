"""Second derivatives of potentials."""

from __future__ import annotations

import pytest
import torch
from closed_forms import Linear, Quartic
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.external import attach_forces
from smoothflow.core.potential import hessian
from torch import Tensor

F64 = torch.float64


MATRIX = torch.randn(90, 90, generator=torch.Generator().manual_seed(0), dtype=F64)
FORM = (MATRIX + MATRIX.T, 1.0)
"""Of 30 atoms: more rows than are computed at once."""


class External(Quartic):
    """The same, with forces that come from elsewhere."""

    def energy(self, positions: Tensor) -> Tensor:
        x = positions.detach()
        forces = -(x.flatten(1) @ self.matrix + 4 * x.flatten(1) ** 3).reshape(x.shape)
        return attach_forces(positions, super().energy(x), forces)


def test_the_hessian_of_a_quartic_is_its_closed_form() -> None:
    potential = Quartic(*FORM)
    x = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    found = hessian(potential, x)
    assert found.shape == (2, 30, 3, 30, 3)
    assert not found.requires_grad
    expected = potential.matrix + torch.diag_embed(12 * x.flatten(1) ** 2)
    torch.testing.assert_close(found.reshape(2, 90, 90), expected, rtol=1e-13, atol=1e-13)


def test_calling_a_potential_gives_its_energy() -> None:
    x = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1), dtype=F64, requires_grad=True)
    potential = Quartic(*FORM)
    assert torch.equal(potential(x), potential.energy(x))
    energy, forces = potential.energy_and_forces(x)
    assert not energy.requires_grad
    assert not forces.requires_grad
    (gradient,) = torch.autograd.grad(potential(x).sum(), x)
    torch.testing.assert_close(forces, -gradient, rtol=1e-14, atol=0)
    assert potential.explain(x[:1]) == ""
    assert potential.topology is None


def test_forces_that_cannot_be_differentiated_give_no_hessian() -> None:
    x = torch.ones(1, 30, 3, dtype=F64)
    torch.testing.assert_close(External(*FORM).energy_and_forces(x), Quartic(*FORM).energy_and_forces(x))
    with pytest.raises(ConfigurationError, match="finite differences"):
        hessian(External(*FORM), x)
    with pytest.raises(ConfigurationError, match="Linear gives forces that cannot be differentiated"):
        hessian(Linear(2, 1.0), torch.ones(1, 2, 3))
