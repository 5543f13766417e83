"""Thermochemistry of hydrogen peroxide, whose partition function is a product of integrals over one coordinate each."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.vibrations import VibrationsData
from closed_forms import PEROXIDE, Peroxide, TwoMinima
from scipy import constants
from smoothflow.analysis.basins import Basin
from smoothflow.analysis.thermodynamics import StandardState
from smoothflow.backends.engines.ase import SmoothflowCalculator
from smoothflow.core.errors import ConfigurationError, GeometryError, TopologyError, UnknownNameError
from smoothflow.core.external import attach_forces
from smoothflow.core.identity import Geometry
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Topology
from smoothflow.core.units import ANGSTROM, thermal_energy
from smoothflow.molecules.elements import masses
from smoothflow.molecules.frames import Frames
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.studies.thermo import COLUMNS, Thermochemistry, ThermoSettings, thermochemistry
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential
from torch import Tensor

KT = thermal_energy(300.0)


@pytest.fixture(scope="module")
def flow(peroxide_frames: Frames) -> FlowPotential:
    """A flow that was fitted to the frames' charts, and not trained."""
    return initial_potential(peroxide_frames, TrainSettings()).double().requires_grad_(False)


def basin(flow: FlowPotential, lower: float, upper: float, name: str = "region") -> Basin:
    return Basin(name, {flow.coordinates.codomain.names[-1]: (lower, upper)})


def placed(*q: float) -> Tensor:
    """A configuration of these internal coordinates."""
    return Peroxide().coordinates.decode(torch.tensor([q], dtype=torch.float64))[0][0]


START = (0.125, 0.118, 0.12, 1.7, 1.9, 2.5)


@dataclass(frozen=True)
class Exact:
    """log Z, mean energy (kT) and variance of the energy (kT^2) of one coordinate or of several together."""

    log_z: float
    mean: float
    variance: float

    def __add__(self, other: Exact) -> Exact:
        return Exact(self.log_z + other.log_z, self.mean + other.mean, self.variance + other.variance)


def integral(x: np.ndarray, energy: np.ndarray, measure: np.ndarray) -> Exact:
    """By sums over a fine grid between points where nothing is left, or over whole turns: rounding is their error."""
    u = energy / KT
    w = np.exp(-u) * measure
    mean = float((w * u).sum() / w.sum())
    return Exact(math.log(float(w.sum()) * (x[1] - x[0])), mean, float((w * (u - mean) ** 2).sum() / w.sum()))


def exact(lower: float = -180.0, upper: float = 180.0) -> Exact:
    """Of `Peroxide`, with its torsion in a range in degrees."""
    r, theta = np.linspace(0.09, 0.15, 4001), np.linspace(1.0, 2.6, 4001)
    n = 200_000
    phi = np.radians(lower + (upper - lower) * (np.arange(n) + 0.5) / n)
    bond = integral(r, 1e5 * (r - 0.12) ** 2, r**2)
    angle = integral(theta, 150 * (theta - 1.8) ** 2, np.sin(theta))
    return bond + bond + bond + angle + angle + integral(phi, 3 * (1 + np.cos(phi)), np.ones(n))


def ideal(symmetry_number: int) -> float:
    """Of translation at 1 bar and 300 K, rotation and momenta, the logarithm, in units of the SI."""
    kT = constants.k * 300.0
    lengths = [constants.h / math.sqrt(2 * math.pi * m * constants.atomic_mass * kT) for m in masses(PEROXIDE).tolist()]
    room = 8 * math.pi**2 / symmetry_number * kT / 1e5
    # of 12 dimensions, which the configurational integral over 6 coordinates in nm leaves at 9
    return math.log(room) + 9 * math.log(constants.nano) - 3 * sum(map(math.log, lengths))


def agree(found: Thermochemistry, truth: Exact, symmetry_number: int = 1) -> None:
    """Within four standard errors of the exact numbers."""
    a = -truth.log_z - ideal(symmetry_number) - 1
    u, k = truth.mean + 6, 1000 * constants.R / 1000
    ours = found.anharmonic
    pairs = [
        (ours.helmholtz_energy, a * KT),
        (ours.gibbs_energy, (a + 1) * KT),
        (ours.internal_energy, u * KT),
        (ours.entropy, (u - a) * k),
        (ours.heat_capacity, (truth.variance + 6) * k),
    ]
    for estimate, expected in pairs:
        assert estimate.reliable, estimate.reason
        # rounding of masses of the SI beside errors
        assert abs(estimate.value - expected) < 4 * estimate.error + 1e-6 * abs(expected)
        assert estimate.error < 0.01 * abs(expected)


def test_state_functions_of_the_reference_are_those_of_the_closed_form(
    flow: FlowPotential, force_field: Potential
) -> None:
    settings = ThermoSettings(n_samples=20_000, symmetry_number=2)
    found = thermochemistry(flow, placed(*START), settings, force_field)
    assert found.verdict.reliable
    agree(found, exact(), 2)
    # what energy and log Z have in common cancels: less than the two errors together
    parts = math.hypot(found.anharmonic.internal_energy.error, found.anharmonic.helmholtz_energy.error)
    assert found.anharmonic.entropy.error < 1000 * parts / 300
    # a torsion that all but turns freely is no vibration: softer, and of lower free energy
    assert abs(found.anharmonic.helmholtz_energy.value - found.harmonic.helmholtz_energy.value) < KT
    assert found.harmonic.heat_capacity.value == pytest.approx(9 * constants.R)


def test_a_region_has_the_state_functions_of_its_own(flow: FlowPotential, force_field: Potential) -> None:
    region = basin(flow, 90, -90)
    found = thermochemistry(flow, placed(*START), ThermoSettings(20_000, basin=region), force_field)
    agree(found, exact(90, 270))


def test_of_its_own_energy_a_flow_knows_the_free_energy_exactly(flow: FlowPotential) -> None:
    found = thermochemistry(flow, placed(*START), ThermoSettings(4000, standard=StandardState(2.0)))
    assert found.ess is None
    assert found.verdict.reliable
    assert found.anharmonic.helmholtz_energy.error == 0
    expected = -KT * (ideal(1) - math.log(2) + 1)
    assert found.anharmonic.helmholtz_energy.value == pytest.approx(expected, rel=1e-6)
    # new samples say the same of the energy
    positions, log_prob = flow.sample(4000, seed=5)
    mean, spread = -KT * float(log_prob.mean()) + 6 * KT, KT * float(log_prob.std()) / math.sqrt(4000)
    assert abs(found.anharmonic.internal_energy.value - mean) < 4 * math.sqrt(2) * spread
    assert float(flow.energy(found.positions)) == pytest.approx(found.minimum_energy)
    # an untrained flow has dents, a few of them deeper than the minimum next to the start
    assert float((flow.energy(positions) > found.minimum_energy).double().mean()) > 0.99


def test_the_minimum_and_its_vibrations_are_those_that_ase_finds(force_field: Peroxide, flow: FlowPotential) -> None:
    found = thermochemistry(flow, placed(*START), ThermoSettings(100), force_field)
    _, forces = force_field.energy_and_forces(found.positions)
    assert float(forces.abs().max()) < 1e-3
    q, _ = force_field.coordinates.encode(found.positions[None])
    expected = torch.tensor([0.12, 0.12, 0.12, 1.8, 1.8, math.pi], dtype=torch.float64)
    turn = torch.remainder(q[0] - expected + math.pi, 2 * math.pi) - math.pi
    assert float(turn.abs().max()) < 1e-6
    atoms = Atoms("HOOH", found.positions.numpy() / ANGSTROM, masses=masses(PEROXIDE).numpy())
    second = SmoothflowCalculator(force_field).get_hessian(atoms)
    theirs = VibrationsData(atoms, second).get_frequencies().real[-6:]
    assert np.array(found.wavenumbers) == pytest.approx(theirs, rel=1e-5)


class Program(Potential):
    """A potential that gives energies and forces, and nothing of second order."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential, self.shape, self.topology = potential, potential.shape, potential.topology

    def energy(self, positions: Tensor) -> Tensor:
        return attach_forces(positions, *self.potential.energy_and_forces(positions))


def test_a_program_without_second_derivatives_has_the_same_vibrations(
    flow: FlowPotential, force_field: Potential
) -> None:
    settings = ThermoSettings(100)
    exactly, by_program = (
        thermochemistry(flow, placed(*START), settings, potential) for potential in (force_field, Program(force_field))
    )
    # a step of 0.001 nm in a fourth-order stencil
    assert by_program.wavenumbers == pytest.approx(exactly.wavenumbers, abs=0.2)
    assert by_program.minimum_energy == pytest.approx(exactly.minimum_energy, abs=1e-6)


def in_one_well(potential: TwoMinima, peroxide_frames: Frames) -> FlowPotential:
    """A flow of frames that never left the lower of two wells."""
    noise = torch.randn((500, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centre = torch.tensor([0.12, 0.12, 0.12, 1.8, 1.8, potential.torsion], dtype=torch.float64)
    widths = (KT / torch.tensor([1e5] * 3 + [400.0] * 2 + [120.0 + potential.b])).sqrt()
    positions = potential.coordinates.decode(centre + widths * noise)[0]
    frames = replace(peroxide_frames[:500], positions=positions.float().numpy(), energies=None, forces=None)
    flow = initial_potential(frames, TrainSettings()).double().requires_grad_(False)
    # a torsion that is charted all around, and that no configuration is refused for, may lack a well as well
    flow._geometry = Geometry(())
    return flow


def test_a_well_that_the_model_lacks_is_said_and_leaves_no_errors(peroxide_frames: Frames) -> None:
    potential = TwoMinima(1.0)
    flow = in_one_well(potential, peroxide_frames)
    known, lacking = (
        thermochemistry(
            flow,
            placed(0.12, 0.12, 0.12, 1.8, 1.8, potential.torsion + turn),
            ThermoSettings(4000),
            potential,
        )
        for turn in (0.1, math.pi - 0.1)
    )
    assert known.verdict.reliable
    assert known.anharmonic.helmholtz_energy.reliable
    # of the well alone, which is stiff
    harmonic = known.harmonic.helmholtz_energy.value
    assert known.anharmonic.helmholtz_energy.value == pytest.approx(harmonic, abs=0.1 * KT)
    assert not lacking.verdict.reliable
    assert "the model lacks its well" in str(lacking.verdict)
    for name in lacking.anharmonic.__dataclass_fields__:
        assert math.isnan(getattr(lacking.anharmonic, name).error)


class Longer(Peroxide):
    """With bonds that no sample of the flow has."""

    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions / 1.15)


def test_a_reference_that_samples_do_not_overlap_with_has_no_errors(flow: FlowPotential) -> None:
    found = thermochemistry(flow, placed(*START), ThermoSettings(500), Longer())
    assert not found.verdict.reliable
    assert math.isnan(found.anharmonic.helmholtz_energy.error)
    assert "(" in found.rows()[-5][1]
    # the harmonic columns need no samples
    assert found.harmonic.helmholtz_energy.error == 0


def test_what_cannot_be_is_refused(flow: FlowPotential, force_field: Potential) -> None:
    start, few = placed(*START), ThermoSettings(100)
    with pytest.raises(ConfigurationError, match='not in the basin "cis"'):
        thermochemistry(flow, start, replace(few, basin=basin(flow, -90, 90, "cis")), force_field)
    with pytest.raises(ConfigurationError, match="None of 100 samples"):
        thermochemistry(flow, start, replace(few, basin=basin(flow, 179.99, -179.99)), force_field)
    with pytest.raises(UnknownNameError, match="chi"):
        thermochemistry(flow, start, replace(few, basin=Basin("x", {"chi": (0, 9)})), force_field)
    with pytest.raises(GeometryError, match="nm"):
        thermochemistry(flow, start / ANGSTROM, few, force_field)
    with pytest.raises(ConfigurationError, match="float64"):
        thermochemistry(deepcopy(flow).float(), start, few)
    other = Topology(PEROXIDE.atoms[::-1], PEROXIDE.bonds)
    stranger = Peroxide()
    stranger.topology = other
    with pytest.raises(TopologyError, match="the reference"):
        thermochemistry(flow, start, few, stranger)
    for wrong, said in (({"n_samples": 1}, "two samples"), ({"seed": -1}, "seed"), ({"symmetry_number": 0}, "1 or")):
        with pytest.raises(ConfigurationError, match=said):
            ThermoSettings(**wrong)


def test_rows_and_json_hold_every_number(flow: FlowPotential, force_field: Potential) -> None:
    found = thermochemistry(flow, placed(*START), ThermoSettings(2000), force_field)
    rows = found.rows()
    assert {len(row) for row in rows} == {len(COLUMNS)}
    shown = {row[0]: row for row in rows}
    assert shown["S, J/mol/K"][1] == str(found.anharmonic.entropy)
    assert shown["symmetry number"][1:] == ["1", "1", "1"]
    content = found.to_dict()
    assert content["anharmonic"]["entropy"]["value"] == found.anharmonic.entropy.value
    assert content["standard"] == {"value": 1.0, "unit": "bar"}
    assert len(content["wavenumbers"]) == 6
