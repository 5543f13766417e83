"""Toy targets against published numbers, SciPy's quadrature and distributions, and finite differences."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import dblquad
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.manifolds import Circle
from smoothflow.core.units import thermal_energy
from smoothflow.potentials.toys import TOYS, KinkedRings, PeriodicRings, Rings, SineComponent, VonMises, VonMisesMixture

LOG_FULL_TURN = math.log(2 * math.pi)


@pytest.mark.parametrize(
    ("name", "log_normalizer", "entropy", "uniform_ess"),
    [
        ("torus-unimodal", 4.147583, 3.254803, 0.4944),
        ("torus-multimodal", None, 3.602380, 0.8753),  # ours is normalized
        ("torus-correlated", 3.911668, 3.465279, 0.7032),
    ],
)
def test_torus_targets_have_the_known_numbers(
    name: str, log_normalizer: float | None, entropy: float, uniform_ess: float
) -> None:
    toy = TOYS[name]()
    # the known numbers are per radian; given to six digits
    if log_normalizer is not None:
        assert toy.log_normalizer + 2 * LOG_FULL_TURN == pytest.approx(log_normalizer, abs=1e-6)
    assert toy.entropy + 2 * LOG_FULL_TURN == pytest.approx(entropy, abs=1e-6)
    axis = torch.arange(200, dtype=torch.float64) / 200
    density = toy.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert float(density.mean() ** 2 / density.square().mean()) == pytest.approx(uniform_ess, abs=1e-4)


@pytest.mark.parametrize(("name", "entropy"), [("rings", -1.3432), ("rings-kinked", -0.7516)])
def test_rings_have_the_known_entropies(name: str, entropy: float) -> None:
    assert TOYS[name]().entropy == pytest.approx(entropy, abs=1e-4)  # known to four digits


def test_rings_have_the_normalizer_of_gaussian_shells_in_polar_coordinates() -> None:
    width = 0.06
    total = 0.0
    for weight, radius in zip((1.0, 0.8, 0.6, 0.4), (1.0, 2.0, 1.5, 2.5), strict=True):
        tail = width**2 * math.exp(-0.5 * (radius / width) ** 2)
        bulk = radius * width * math.sqrt(2 * math.pi) * stats.norm.cdf(radius / width)
        total += weight * 2 * math.pi * (tail + bulk)
    expected = math.log(total) - 2 * LOG_FULL_TURN
    assert Rings().log_normalizer == pytest.approx(expected, abs=1e-12)  # quadrature


@pytest.mark.parametrize("name", ["torus-multimodal", "ramachandran"])
def test_quadrature_agrees_with_scipy(name: str) -> None:
    toy = TOYS[name]()

    def log_prob(b: float, a: float) -> float:
        return float(toy.log_prob(torch.tensor([[a, b]], dtype=torch.float64)))

    tolerance = 1e-5
    norm, _ = dblquad(lambda b, a: math.exp(log_prob(b, a)), 0, 1, 0, 1, epsabs=tolerance, epsrel=tolerance)
    assert norm == pytest.approx(1, abs=tolerance)
    entropy, _ = dblquad(
        lambda b, a: -log_prob(b, a) * math.exp(log_prob(b, a)), 0, 1, 0, 1, epsabs=tolerance, epsrel=tolerance
    )
    assert toy.entropy == pytest.approx(entropy, abs=tolerance)


def test_von_mises_agrees_with_scipy() -> None:
    locations, concentrations = [1.0, 3.0], [0.5, 30.0]
    toy = VonMises(locations, concentrations)
    x = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    marginals = [stats.vonmises(kappa, loc) for loc, kappa in zip(locations, concentrations, strict=True)]
    # scipy's density is per radian
    expected = sum(m.logpdf(2 * np.pi * x[:, i].numpy()) + LOG_FULL_TURN for i, m in enumerate(marginals))
    np.testing.assert_allclose(toy.log_prob(x).numpy(), expected, rtol=1e-12)  # rounding
    assert toy.entropy == pytest.approx(sum(m.entropy() - LOG_FULL_TURN for m in marginals), abs=1e-12)


def test_sine_component_has_the_normalizer_of_singh() -> None:
    from scipy.special import comb, iv

    component = SineComponent(1.0, (0.0, 0.0), (4.0, 7.0), 3.0)
    m = np.arange(60)
    series = comb(2 * m, m) * (3.0**2 / (4 * 4.0 * 7.0)) ** m * iv(m, 4.0) * iv(m, 7.0)
    assert component.log_normalizer == pytest.approx(math.log(series.sum()), abs=1e-13)  # a series that converged


@pytest.mark.parametrize("name", TOYS)
def test_samples_have_the_density(name: str) -> None:
    toy = TOYS[name]()
    n = 20_000
    x, log_prob = toy.sample(n, torch.Generator().manual_seed(1))
    toy.domain.require_inside(x, name)
    assert x.shape == (n, *toy.shape)
    torch.testing.assert_close(log_prob, toy.log_prob(x))
    # five standard errors
    assert float(-log_prob.mean()) == pytest.approx(toy.entropy, abs=5 * float(log_prob.std()) / math.sqrt(n))
    # another statistic, against uniform points: the mean of min(1 / p, e^3) is the integral of min(1, p e^3)
    ratio = torch.exp(-log_prob.clamp(min=-3.0))
    grid = torch.rand(400_000, *toy.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid_log_prob = toy.log_prob(grid)
    expected = torch.exp(grid_log_prob - grid_log_prob.clamp(min=-3.0))
    error = math.hypot(float(ratio.std()) / math.sqrt(n), float(expected.std()) / math.sqrt(len(grid)))
    assert float(ratio.mean()) == pytest.approx(float(expected.mean()), abs=5 * error)


@pytest.mark.parametrize("name", TOYS)
def test_sampling_is_reproducible_and_bounded_rightly(name: str) -> None:
    toy = TOYS[name]()
    first, _ = toy.sample(1000, torch.Generator().manual_seed(3))
    again, _ = toy.sample(1000, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    # a descent from the best samples does not fall through the floor of the rejection
    x = first[toy.energy(first).argsort()[:20]].clone()
    for _ in range(200):
        x = x + 1e-6 * toy.energy_and_forces(x)[1]
    assert float(toy.energy(x).min()) >= toy.energy_floor - 1e-12
    empty, log_prob = toy.sample(0, torch.Generator())
    assert empty.shape == (0, *toy.shape)
    assert log_prob.shape == (0,)


@pytest.mark.parametrize("name", TOYS)
def test_forces_agree_with_finite_differences(name: str) -> None:
    toy = TOYS[name]()
    x, _ = toy.sample(20, torch.Generator().manual_seed(4))
    _, forces = toy.energy_and_forces(x)
    step = 1e-6
    for i in range(toy.shape[0]):
        shift = torch.zeros(toy.shape, dtype=torch.float64)
        shift[i] = step
        slope = (toy.energy(x + shift) - toy.energy(x - shift)) / (2 * step)
        # third derivatives up to 1e6 times step^2, and rounding of 1e-15 / step
        torch.testing.assert_close(-forces[:, i], slope, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in TOYS if name != "rings"])
def test_energies_are_periodic(name: str) -> None:
    toy = TOYS[name]()
    assert {column.manifold for column in toy.domain} == {Circle()}
    x, _ = toy.sample(20, torch.Generator().manual_seed(5))
    torch.testing.assert_close(toy.energy(x + 1), toy.energy(x), rtol=1e-9, atol=1e-9)  # rounding of x + 1
    torch.testing.assert_close(toy.energy(x - 2), toy.energy(x), rtol=1e-9, atol=1e-9)


def test_the_force_jumps_at_the_seam_of_the_paper_s_target_alone() -> None:
    seam = torch.tensor([[1e-9, 0.2], [1 - 1e-9, 0.2]], dtype=torch.float64)
    (before, after) = KinkedRings().energy_and_forces(seam)[1][:, 0]
    assert abs(before - after) > 1
    (before, after) = PeriodicRings().energy_and_forces(seam)[1][:, 0]
    assert abs(before - after) < 1e-3  # force gradients of 1e5 over 2e-9


@pytest.mark.parametrize("name", TOYS)
def test_single_precision_is_kept(name: str) -> None:
    toy = TOYS[name]()
    x, _ = toy.sample(100, torch.Generator().manual_seed(6))
    energy = toy.energy(x.float())
    assert energy.dtype == torch.float32
    # forces of up to 1e3 times the rounding of x
    torch.testing.assert_close(energy.double(), toy.energy(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", TOYS)
def test_pickled_targets_are_the_same(name: str) -> None:
    toy = TOYS[name]()
    x, _ = toy.sample(10, torch.Generator().manual_seed(7))
    torch.testing.assert_close(pickle.loads(pickle.dumps(toy)).log_prob(x), toy.log_prob(x))


def test_the_unit_of_energy_is_kt() -> None:
    assert thermal_energy(Rings.temperature) == pytest.approx(1)


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one concentration for each location"):
        VonMises([0.0, 1.0], [1.0])
    with pytest.raises(ConfigurationError, match="less in square"):
        VonMisesMixture([SineComponent(1.0, (0.0, 0.0), (1.0, 1.0), 2.0)])
    with pytest.raises(ConfigurationError, match="sum to one"):
        VonMisesMixture([SineComponent(0.5, (0.0, 0.0), (1.0, 1.0))])
