"""Energies that come with their forces: derivatives are those that came along, and no others."""

from __future__ import annotations

import pytest
import torch
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.external import attach_forces
from torch import Tensor

F64 = torch.float64


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum((1, 2))


def attached(x: Tensor, with_hessian: bool) -> Tensor:
    """The quartic with energies, forces and second derivatives from elsewhere."""
    plain = x.detach()
    hessian_vector = (lambda at, vectors: 12 * at**2 * vectors) if with_hessian else None
    return attach_forces(x, quartic(plain), -4 * plain**3, hessian_vector)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64).requires_grad_(True)


@pytest.mark.parametrize("with_hessian", [False, True])
def test_gradients_are_minus_the_forces_weighted_by_what_comes_back(x: Tensor, with_hessian: bool) -> None:
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    energy = attached(x, with_hessian)
    assert torch.equal(energy, quartic(x))
    (found,) = torch.autograd.grad((weights * energy).sum(), x)
    torch.testing.assert_close(found, weights[:, None, None] * 4 * x**3, rtol=1e-14, atol=0)


def test_second_derivatives_are_those_that_are_known(x: Tensor) -> None:
    (gradient,) = torch.autograd.grad(attached(x, True).sum(), x, create_graph=True)
    vectors = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    (found,) = torch.autograd.grad((gradient * vectors).sum(), x, create_graph=True)
    torch.testing.assert_close(found, 12 * x**2 * vectors, rtol=1e-14, atol=0)
    # thirds are not known, and not taken for zero
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(found.sum(), x)


def test_second_derivatives_that_nobody_knows_are_an_error(x: Tensor) -> None:
    (gradient,) = torch.autograd.grad(attached(x, False).sum(), x, create_graph=True)
    with pytest.raises(ConfigurationError, match=r"not available.* Use finite differences"):
        torch.autograd.grad(gradient.sum(), x)
