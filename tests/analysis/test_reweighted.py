"""Averages over a target that is known: a flow of uniform torsions, with a cosine of phi added to its energy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conformations import untrained_flow
from scipy.integrate import quad
from scipy.special import ive
from smoothflow.analysis.basins import BASINS, Basin
from smoothflow.analysis.chain import write_chain
from smoothflow.analysis.reweighted import Averages, average, observe_targets, observe_weights, require_torsions
from smoothflow.core.errors import ConfigurationError, FileFormatError, UnknownNameError
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.frames_file import read_frames
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.sampling.draws import SamplingPlan, draw_samples

KT = thermal_energy(300.0)
CONSTANT, TILT, N = -7.0, 0.8, 4000
LOG_Z = -CONSTANT + math.log(ive(0, TILT)) + TILT
"""Of the tilt over a uniform phi."""
LEFT, RIGHT = Basin.parse("left:phi=-120..-30"), Basin.parse("right:phi=150..-120")


class Tilted(Potential):
    """A flow's energy with a constant and a multiple of cos(phi), kT; infinite in one corner of psi."""

    def __init__(self, base: FlowPotential, forbidden: float = 0.0) -> None:
        super().__init__()
        self.base, self.forbidden, self.shape, self.topology = base, forbidden, base.shape, base.topology
        self.phi, self.psi = (base.coordinates.codomain.index(name) for name in ("phi", "psi"))

    def energy(self, positions: torch.Tensor) -> torch.Tensor:
        q, _ = self.base.coordinates.encode(positions)
        energy = self.base.energy(positions) + KT * (CONSTANT + TILT * q[:, self.phi].cos())
        return torch.where(q[:, self.psi].abs() < self.forbidden, torch.inf, energy)


@pytest.fixture(scope="module")
def potential() -> FlowPotential:
    return untrained_flow(circle_pairs=0)


@pytest.fixture(scope="module")
def samples(potential: FlowPotential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = SamplingPlan(tmp_path_factory.mktemp("samples") / "samples.h5", N, 1, Tilted(potential))
    draw_samples(potential, plan)
    return plan.output


def share(lower: float, upper: float) -> float:
    """Of the target's phi between two angles in degrees."""
    weight, _ = quad(lambda phi: math.exp(-TILT * math.cos(phi)), math.radians(lower), math.radians(upper))
    return weight / (2 * math.pi * ive(0, TILT) * math.exp(TILT))


def require_exact(found: Averages) -> None:
    """Closed forms, within four standard errors."""
    left, right = share(-120, -30), share(150, 240)
    for estimate, exact in (
        (found.populations["phi > 0"], 0.5),
        (found.populations["left"], left),
        (found.populations["right"], right),
        (found.free_energies["right above left"], math.log(left / right)),
    ):
        assert abs(estimate.value - exact) < 4 * estimate.error
    if found.log_z is not None:
        assert abs(found.log_z.value - LOG_Z) < 4 * found.log_z.error


def test_weights_give_the_closed_forms(potential: FlowPotential, samples: Path) -> None:
    found = average(potential, samples, [LEFT, RIGHT])
    require_exact(found.samples)
    assert (found.n_samples, found.not_finite, found.n_evaluations) == (N, 0, N)
    # E[w]^2 / E[w^2] of w = exp(-a cos(phi)) is I0(a)^2 / I0(2a)
    exact = (ive(0, TILT) * math.exp(TILT)) ** 2 / (ive(0, 2 * TILT) * math.exp(2 * TILT))
    assert abs(found.ess.value - exact) < 4 * found.ess.error


def test_a_chain_is_worth_frames_of_the_target(potential: FlowPotential, samples: Path, tmp_path: Path) -> None:
    target = Tilted(potential)
    report = write_chain(potential, samples, tmp_path / "chain.h5", seed=2)
    frames = read_frames(tmp_path / "chain.h5")
    assert (len(frames), frames.log_weights) == (N, None)
    assert report.n_steps == N
    moved = (np.diff(frames.positions, axis=0) != 0).any(axis=(1, 2))
    assert report.acceptance.value == pytest.approx(moved.mean(), abs=1e-12)
    # a walk that moves half the time remembers a few steps
    assert all(1 <= time < 10 for time in report.autocorrelation_times.values())
    energies = target.energy(torch.from_numpy(frames.positions).double())
    # positions are stored in float32
    np.testing.assert_allclose(frames.energies, energies.numpy(), atol=0.05)
    seen = observe_targets(potential, frames, target, require_torsions(potential, [LEFT, RIGHT]))
    # energies of ten frames were checked
    assert seen.n_evaluations == 10
    found = average(potential, samples, [LEFT, RIGHT], seen)
    assert found.n_evaluations == N + 10
    assert found.frames is not None
    assert found.both is not None
    require_exact(found.frames)
    assert [len(row) for row in found.rows()] == [4] * len(found.rows())
    # the samples and their own chain tell one story
    for name, estimate in found.both.populations.items():
        assert abs(estimate.value - found.samples.populations[name].value) < 4 * estimate.error


def test_a_chain_begins_where_it_can(potential: FlowPotential, tmp_path: Path) -> None:
    plan = SamplingPlan(tmp_path / "samples.h5", 1500, 4, Tilted(potential, forbidden=2.8))
    draw_samples(potential, plan)
    drawn = observe_weights(potential, plan.output, ["psi"])
    possible = drawn.energy.isfinite()
    assert not possible[0]
    assert average(potential, plan.output).not_finite == int((~possible).sum())
    report = write_chain(potential, plan.output, tmp_path / "chain.h5")
    start = int(possible.nonzero()[0])
    frames = read_frames(tmp_path / "chain.h5")
    assert len(frames) == report.n_steps == 1500 - start
    np.testing.assert_array_equal(frames.positions[0], read_frames(plan.output).positions[start])
    assert np.isfinite(frames.energies).all()


def test_samples_of_the_model_alone_have_no_averages(potential: FlowPotential, tmp_path: Path) -> None:
    plan = SamplingPlan(tmp_path / "samples.h5", 10)
    draw_samples(potential, plan)
    with pytest.raises(FileFormatError, match="holds no log-weights"):
        average(potential, plan.output)


def test_basins_wrap_and_share_their_map() -> None:
    degrees = torch.arange(-180.0, 180.0, dtype=torch.float64) + 0.5
    phi, psi = (x.flatten() * math.pi / 180 for x in torch.meshgrid(degrees, degrees, indexing="ij"))
    counts = {name: int(basin.contains({"phi": phi, "psi": psi}).sum()) for name, basin in BASINS.items()}
    assert counts == {"alpha": 140 * 170, "beta": 90 * 190, "ppii": 70 * 190}
    whole = Basin.parse("any: phi = -180..180")
    assert bool(whole.contains({"phi": phi, "psi": psi}).all())
    assert sum(basin.contains({"phi": phi, "psi": psi}).int() for basin in BASINS.values()).max() == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alfa", 'No basin is called "alfa"'),
        ("a:phi=0-60", "is not a basin"),
        ("a:phi=0..60,phi=0..90", "is not a basin"),
        (":phi=0..60", "is not a basin"),
        ("a:phi=0..400", "is not a range"),
        ("a:phi=60..60", "is not a range"),
    ],
)
def test_text_that_does_not_describe_a_basin_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Basin.parse(text)


def test_a_basin_of_another_molecule_is_refused(potential: FlowPotential) -> None:
    with pytest.raises(UnknownNameError, match=r'No torsion is called "psi 2"\. Did you mean "psi"'):
        require_torsions(potential, [Basin.parse("a:psi 2=0..60")])
