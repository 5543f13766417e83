"""The torch force field against OpenMM's Reference platform, which computes in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from smoothflow.core.errors import ConfigurationError, TopologyError
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials import force_field
from smoothflow.potentials.force_field import ForceField
from smoothflow.potentials.force_terms import BornIntegral
from torch import Tensor

RELATIVE = 1e-11  # sums of up to 1e5 terms in float64, in another order


def anonymous(n_atoms: int) -> Topology:
    return Topology(tuple(Atom("C", f"C{i}", "MOL", 0) for i in range(n_atoms)), ())


def openmm_results(system: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    energies, forces = [], []
    for frame in positions.numpy():
        context.setPositions(frame)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
        forces.append(state.getForces(asNumpy=True)._value)
    return torch.tensor(energies, dtype=torch.float64), torch.from_numpy(np.stack(forces))


def require_agreement(system: Any, positions: Tensor) -> None:
    potential = ForceField.from_system(system, anonymous(system.getNumParticles()))
    energy, forces = potential.energy_and_forces(positions)
    energy_openmm, forces_openmm = openmm_results(system, positions)
    scale = forces_openmm.abs().amax().item()
    torch.testing.assert_close(energy, energy_openmm, rtol=RELATIVE, atol=RELATIVE * scale * 0.1)
    torch.testing.assert_close(forces, forces_openmm, rtol=RELATIVE, atol=RELATIVE * scale)


def perturbed(positions: Any, n_frames: int, width: float, seed: int = 0) -> Tensor:
    start = torch.tensor(positions.value_in_unit(unit.nanometer), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((n_frames, *start.shape), generator=generator, dtype=torch.float64)
    scale = width * torch.linspace(0, 1, n_frames, dtype=torch.float64)
    return start + scale[:, None, None] * noise


def amber(name: str, *files: str, **options: Any) -> tuple[Any, Any]:
    """A shipped molecule's System and positions; in implicit solvent unless other files are named."""
    pdb = app.PDBFile(str(molecule_path(name)))
    chosen = files or ("amber99sbildn.xml", "amber99_obc.xml")
    return app.ForceField(*chosen).createSystem(pdb.topology, **options), pdb.positions


def capped_alanine(**options: Any) -> tuple[Any, Any]:
    return amber("capped-alanine", **options)


MOLECULES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "capped alanine": capped_alanine,
    "capped alanine, vacuum": lambda: amber("capped-alanine", "amber14/protein.ff14SB.xml"),
    "capped alanine, other dielectrics": lambda: capped_alanine(soluteDielectric=2.0, solventDielectric=40.0),
    "alanine tetrapeptide": lambda: amber("alanine-tetrapeptide"),
    "proline dipeptide": lambda: amber("proline-dipeptide"),
    "chignolin": lambda: amber("chignolin"),
    "water": lambda: amber("water", "tip3p.xml", rigidWater=False),
}


@pytest.mark.parametrize("name", MOLECULES)
def test_molecules_agree_with_openmm(name: str) -> None:
    system, positions = MOLECULES[name]()
    require_agreement(system, perturbed(positions, n_frames=4, width=0.03))


def random_system(n_atoms: int, seed: int) -> Any:
    """Every force that is known, with random parameters on random atoms, exceptions and repeated forces included."""
    rng = np.random.default_rng(seed)

    def choose(size: int) -> list[int]:
        return [int(i) for i in rng.choice(n_atoms, size, replace=False)]

    system = openmm.System()
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    rb, nonbonded, solvent = openmm.RBTorsionForce(), openmm.NonbondedForce(), openmm.GBSAOBCForce()
    solvent.setSoluteDielectric(1.7)
    solvent.setSolventDielectric(62.0)
    solvent.setSurfaceAreaEnergy(3.1)
    for _ in range(n_atoms):
        system.addParticle(12.0)
        charge = rng.normal()
        nonbonded.addParticle(charge, rng.uniform(0.1, 0.3), rng.uniform(0.0, 1.0))
        # balls of so different sizes lie inside one another
        solvent.addParticle(charge, rng.uniform(0.05, 0.35), rng.uniform(0.2, 1.2))
    for _ in range(2 * n_atoms):
        bonds.addBond(*choose(2), rng.uniform(0.1, 0.2), rng.uniform(1e2, 1e4))
        angles.addAngle(*choose(3), rng.uniform(1.0, 3.0), rng.uniform(10, 500))
        torsions.addTorsion(*choose(4), int(rng.integers(1, 7)), rng.uniform(-4, 4), rng.normal() * 10)
        rb.addTorsion(*choose(4), *(rng.normal(size=6) * 10))
    for _ in range(n_atoms):
        i, j = choose(2)
        nonbonded.addException(j, i, rng.normal(), rng.uniform(0.1, 0.2), rng.uniform(0, 1), True)
    again = openmm.HarmonicBondForce()
    again.addBond(0, 1, 0.3, 500.0)
    for force in (bonds, angles, torsions, rb, nonbonded, solvent, again, openmm.CMMotionRemover(1)):
        system.addForce(force)
    return system


@pytest.mark.parametrize("seed", range(5))
def test_random_parameters_agree_with_openmm(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    positions = 0.3 * torch.randn(20, 11, 3, generator=generator, dtype=torch.float64)
    require_agreement(random_system(11, seed), positions)


def test_hessian_agrees_with_finite_differences_of_forces() -> None:
    system, start = capped_alanine()
    potential = ForceField.from_system(system, anonymous(22))
    positions = perturbed(start, 2, 0.01)[1:]
    hessian = torch.autograd.functional.hessian(lambda x: potential.energy(x[None])[0], positions[0])
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(22, 3, generator=generator, dtype=torch.float64)
    step = 1e-5
    _, ahead = openmm_results(system, positions + step * direction)
    _, behind = openmm_results(system, positions - step * direction)
    change = -(ahead - behind)[0] / (2 * step)
    product = torch.einsum("iajb,jb->ia", hessian, direction)
    # the second order of the central difference: a third derivative of 1e8 kJ/mol/nm^3 times 1e-10 nm^2
    torch.testing.assert_close(product, change, rtol=0, atol=1e-6 * change.abs().amax().item())


def test_hessian_is_the_same_by_function_transforms() -> None:
    system, start = capped_alanine()
    potential = ForceField.from_system(system, anonymous(22))
    positions = perturbed(start, 3, 0.01)

    def energy(x: Tensor) -> Tensor:
        return potential.energy(x[None])[0]

    expected = torch.stack([torch.autograd.functional.hessian(energy, x) for x in positions])
    forward_over_reverse = torch.func.vmap(torch.func.hessian(energy))(positions)
    torch.testing.assert_close(forward_over_reverse, expected, rtol=1e-10, atol=1e-6)  # of stiffnesses of 1e5


@pytest.mark.parametrize("size", [0.02, 0.2])
def test_born_integral_has_right_derivatives(size: float) -> None:
    # balls apart, overlapping, and one inside the other either way
    r = torch.tensor([[0.5], [0.2], [0.05], [0.03]], dtype=torch.float64, requires_grad=True)
    own = torch.tensor([[0.11], [0.15], [0.2], [0.1]], dtype=torch.float64)
    other = torch.full_like(own, size)
    assert torch.autograd.gradcheck(BornIntegral.apply, (r, own, other), atol=1e-6)
    assert torch.autograd.gradgradcheck(BornIntegral.apply, (r, own, other), atol=1e-4)
    assert torch.autograd.gradcheck(BornIntegral.apply, (r, own, other), atol=1e-6, check_forward_ad=True)


def test_born_integral_of_a_distant_ball() -> None:
    # far away, the integral of |x|^-4 / 4 pi over a ball is its volume / 4 pi r^4; H is twice that
    integral = BornIntegral.apply(*(torch.tensor([[v]], dtype=torch.float64) for v in (50.0, 0.1, 0.2)))
    assert integral.item() == pytest.approx(2 * 0.2**3 / 3 / 50.0**4, rel=1e-2)


def test_results_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    system, start = capped_alanine()
    potential = ForceField.from_system(system, anonymous(22))
    positions = perturbed(start, 7, 0.02)
    whole = potential.energy_and_forces(positions)
    monkeypatch.setitem(force_field.CHUNK_ELEMENTS, "cpu", 700)
    parts = potential.energy_and_forces(positions)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-9)  # vector kernels round in another order
    torch.testing.assert_close(potential.energy(positions), whole[0], rtol=1e-12, atol=1e-9)


def test_an_empty_batch_has_no_energies() -> None:
    system, _ = capped_alanine()
    energy, forces = ForceField.from_system(system, anonymous(22)).energy_and_forces(torch.zeros(0, 22, 3))
    assert energy.shape == (0,)
    assert forces.shape == (0, 22, 3)


def test_precision_is_the_module_s_and_the_answer_in_that_of_the_positions() -> None:
    system, start = capped_alanine()
    potential = ForceField.from_system(system, anonymous(22))
    positions = perturbed(start, 3, 0.01)
    energy, forces = potential.energy_and_forces(positions)
    rounded, _ = potential.energy_and_forces(positions.float())
    assert rounded.dtype == torch.float32
    single_energy, single_forces = potential.float().energy_and_forces(positions.float())
    assert single_energy.dtype == single_forces.dtype == torch.float32
    # bonds of 3e5 kJ/mol/nm^2 and positions rounded to 1e-7 nm
    torch.testing.assert_close(single_energy.double(), energy, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(single_forces.double(), forces, rtol=1e-4, atol=0.5)


def test_every_constant_moves_with_the_module() -> None:
    # the meta device computes shapes only, but refuses tensors left behind on the CPU
    potential = ForceField.from_system(random_system(8, 0), anonymous(8)).to("meta")
    energy, forces = potential.energy_and_forces(torch.zeros(3, 8, 3, device="meta"))
    assert energy.device.type == forces.device.type == "meta"
    assert forces.shape == (3, 8, 3)


def test_a_potential_of_openmm_becomes_a_force_field() -> None:
    from smoothflow.backends.engines.openmm.potential import OpenMMPotential

    system, start = capped_alanine()
    pdb = app.PDBFile(str(molecule_path("capped-alanine")))
    reference = OpenMMPotential(system, pdb.topology, platform="Reference")
    potential = ForceField.from_potential(reference)
    assert potential.topology is reference.topology
    positions = perturbed(start, 2, 0.01)
    torch.testing.assert_close(potential.energy(positions), reference.energy(positions), rtol=RELATIVE, atol=1e-8)


def with_force(force: Any) -> Any:
    system = random_system(5, 0)
    system.addForce(force)
    return system


def test_an_unknown_force_is_named() -> None:
    with pytest.raises(ConfigurationError, match="CMAPTorsionForce"):
        ForceField.from_system(with_force(openmm.CMAPTorsionForce()), anonymous(5))
    with pytest.raises(ConfigurationError, match="CustomBondForce"):
        ForceField.from_system(with_force(openmm.CustomBondForce("r^2")), anonymous(5))


def test_a_cutoff_is_refused() -> None:
    for make in (openmm.NonbondedForce, openmm.GBSAOBCForce):
        force = make()
        force.setNonbondedMethod(make.CutoffNonPeriodic)
        with pytest.raises(ConfigurationError, match=f"{make.__name__} has a cutoff"):
            ForceField.from_system(with_force(force), anonymous(5))


def test_periodicity_is_refused() -> None:
    force = openmm.HarmonicBondForce()
    force.setUsesPeriodicBoundaryConditions(True)
    with pytest.raises(ConfigurationError, match="HarmonicBondForce is periodic"):
        ForceField.from_system(with_force(force), anonymous(5))


def test_constraints_are_refused() -> None:
    system, _ = capped_alanine(constraints=app.HBonds)
    with pytest.raises(ConfigurationError, match="constrains 12 distances"):
        ForceField.from_system(system, anonymous(22))


def test_virtual_sites_are_refused() -> None:
    system = random_system(5, 0)
    system.setParticleMass(4, 0)
    system.setVirtualSite(4, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    with pytest.raises(ConfigurationError, match="Particle 4"):
        ForceField.from_system(system, anonymous(5))


def test_parameter_offsets_are_refused() -> None:
    force = openmm.NonbondedForce()
    for _ in range(5):
        force.addParticle(0, 1, 0)
    force.addGlobalParameter("scale", 1.0)
    force.addParticleParameterOffset("scale", 0, 1.0, 0.0, 0.0)
    with pytest.raises(ConfigurationError, match="parameter offsets"):
        ForceField.from_system(with_force(force), anonymous(5))


def test_another_molecule_is_refused() -> None:
    system, _ = capped_alanine()
    with pytest.raises(TopologyError, match="22 particles and the topology 23"):
        ForceField.from_system(system, anonymous(23))
    potential = ForceField.from_system(system, anonymous(22))
    with pytest.raises(ConfigurationError, match=r"\(batch, 22, 3\)"):
        potential.energy(torch.zeros(2, 21, 3))
