"""What an engine is given anew is checked anew: another Context, another Atoms object, a restart, a jump."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from openmmml import MLPotential
from smoothflow import FlowPotential, SmoothflowCalculator
from smoothflow.backends.engines.bridge import JUMP, Evaluator
from smoothflow.backends.engines.ipi.pes import PES
from smoothflow.backends.engines.lammps import attach_to_lammps, new_lammps
from smoothflow.backends.engines.openmm import to_openmm_force
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import ConfigurationError, GeometryError, SimulationError, TopologyError
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.core.units import BOHR
from torch import Tensor

MIRROR = np.array([1.0, 1.0, -1.0])
ENGINES = ["native", "openmm", "ase", "ipi", "lammps"]


def mirrored(x: np.ndarray) -> np.ndarray:
    return x * MIRROR


def exchanged(x: np.ndarray) -> np.ndarray:
    """Two hydrogens of one methyl group."""
    x = x.copy()
    x[[12, 13]] = x[[13, 12]]
    return x


def torn(x: np.ndarray) -> np.ndarray:
    """As folded atom by atom into a box of 2.5 nm, one face of which the molecule lay across."""
    return np.where(x > x.mean(0), x - [2.5, 0, 0], x)


WRONG: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "mirrored": (mirrored, r"mirror image .*ALA2-CA"),
    "exchanged": (exchanged, r"Exchange atom \d+ \(ALA2-HB\d\) and atom \d+ \(ALA2-HB\d\)"),
    "torn": (torn, "make the molecule whole"),
    "in Å": (lambda x: 10 * x, "positions in Å"),
    "in units of 10 nm": (lambda x: 0.1 * x, "positions in nm seem to have been taken for Å"),
}


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    return WRONG[request.param]


Wrong = tuple[Callable[[np.ndarray], np.ndarray], str]


def system_of(flow: FlowPotential, pdb: Any) -> openmm.System:
    system = openmm.System()
    for atom in pdb.topology.atoms():
        system.addParticle(atom.element.mass)
    system.addForce(to_openmm_force(flow, pdb.topology))
    return system


def energy(system: openmm.System, positions: Any, platform: str = "Reference") -> float:
    chosen = openmm.Platform.getPlatformByName(platform)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), chosen)
    context.setPositions(positions)
    return float(context.getState(energy=True).getPotentialEnergy()._value)


def test_every_new_context_is_checked(flow: FlowPotential, pdb: Any, positions: Tensor, wrong: Wrong) -> None:
    change, message = wrong
    x = positions[0].numpy()
    system = system_of(flow, pdb)
    right = energy(system, x)
    for _ in range(2):
        with pytest.raises(openmm.OpenMMException, match=message):
            energy(system, change(x))
        assert energy(system, x) == right


def test_every_new_atoms_object_is_checked(flow: FlowPotential, positions: Tensor, wrong: Wrong) -> None:
    change, message = wrong
    x = positions[0].numpy()
    calculator = SmoothflowCalculator(flow)
    right = ase.Atoms(flow.topology.elements, 10 * x, calculator=calculator)
    before = right.get_potential_energy()
    other = ase.Atoms(flow.topology.elements, 10 * change(x), calculator=calculator)
    for ask in (other.get_potential_energy, other.get_forces, lambda: calculator.get_hessian(other)):
        with pytest.raises(GeometryError, match=message):
            ask()
    assert right.get_potential_energy() == before


def test_names_that_ase_read_are_compared(flow: FlowPotential, structure: Path, tmp_path: Path) -> None:
    lines = structure.read_text().splitlines()
    i, j = (n for n, line in enumerate(lines) if line[12:16].strip() in ("HB2", "HB3"))
    lines[i], lines[j] = lines[j], lines[i]
    (tmp_path / "swapped.pdb").write_text("\n".join(lines))
    for path, right in ((structure, True), (tmp_path / "swapped.pdb", False)):
        atoms = ase.io.read(path)
        atoms.pbc = False
        atoms.calc = SmoothflowCalculator(flow)
        if right:
            atoms.get_potential_energy()
        else:
            with pytest.raises(TopologyError, match="Exchange atoms 12 and 13 in the Atoms object"):
                atoms.get_potential_energy()
    with pytest.raises(TopologyError, match="Exchange atoms 12 and 13 in the OpenMM topology"):
        to_openmm_force(flow, app.PDBFile(str(tmp_path / "swapped.pdb")).topology)


def test_atoms_in_a_periodic_cell_are_refused(flow: FlowPotential, positions: Tensor) -> None:
    atoms = ase.Atoms(flow.topology.elements, 10 * positions[0].numpy(), cell=[25.0] * 3, pbc=True)
    atoms.calc = SmoothflowCalculator(flow)
    with pytest.raises(ConfigurationError, match="Periodic boundaries are on"):
        atoms.get_potential_energy()
    atoms.wrap()
    atoms.pbc = False
    with pytest.raises(GeometryError, match="make the molecule whole"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_refuses_what_is_not_the_molecule_at_the_start(
    engine: str, flow: FlowPotential, positions: Tensor, wrong: Wrong
) -> None:
    change, message = wrong
    x = torch.from_numpy(np.stack([positions[0].numpy(), change(positions[1].numpy())]))
    masses = torch.ones(22, dtype=torch.float64)
    with pytest.raises(GeometryError, match=message):
        registry().engine(engine)().run(flow, masses, x, torch.zeros_like(x), DynamicsSettings(1))


def test_every_new_structure_of_ipi_is_checked(flow: FlowPotential, positions: Tensor, wrong: Wrong) -> None:
    change, message = wrong
    x = positions[0].numpy() / BOHR
    pes = PES(flow)
    cell = 1e3 * np.eye(3)
    right, *_ = pes(cell, x)
    with pytest.raises(GeometryError, match=message):
        pes(cell, change(x * BOHR) / BOHR)
    assert pes(cell, x)[0] == right
    # folded atom by atom into i-PI's own cell
    small = 2.5 / BOHR * np.eye(3)
    with pytest.raises(ConfigurationError, match="opposite sides of i-PI's cell"):
        pes(small, torn(x * BOHR) / BOHR)


def lammps_of(flow: FlowPotential, positions: np.ndarray, boundary: str = "s s s") -> Any:
    """LAMMPS with the molecule, one atom type for each element, in real units (Å)."""
    elements = list(dict.fromkeys(flow.topology.elements))
    lmp = new_lammps()
    lmp.commands_string(
        f"units real\natom_modify map array sort 0 0\nboundary {boundary}\n"
        f"region all block -100 100 -100 100 -100 100\ncreate_box {len(elements)} all\nmass * 12.0"
    )
    types = [elements.index(element) + 1 for element in flow.topology.elements]
    lmp.create_atoms(22, list(range(1, 23)), types, (10 * positions).ravel().tolist())
    lmp.command("fix nve all nve")
    return lmp, elements


def test_every_new_start_of_lammps_is_checked(flow: FlowPotential, positions: Tensor, wrong: Wrong) -> None:
    change, message = wrong
    x = positions[0].numpy()
    lmp, elements = lammps_of(flow, x)
    attach_to_lammps(lmp, flow, elements)
    lmp.command("run 1")
    lmp.scatter_atoms("x", 1, 3, np.ctypeslib.as_ctypes((10 * change(x)).ravel().copy()))
    with pytest.raises(SimulationError, match=message) as found:
        lmp.command("run 1")
    assert isinstance(found.value.__cause__, GeometryError)
    lmp.close()


def test_a_periodic_box_of_lammps_is_refused(flow: FlowPotential, positions: Tensor) -> None:
    lmp, elements = lammps_of(flow, positions[0].numpy(), "p p p")
    with pytest.raises(ConfigurationError, match="boundary s s s"):
        attach_to_lammps(lmp, flow, elements)
    lmp.close()


def test_steps_are_not_checked_and_jumps_are(
    flow: FlowPotential, positions: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[np.ndarray] = []
    monkeypatch.setattr(FlowPotential, "require_configuration", lambda self, x: checked.append(x.copy()))
    evaluate = Evaluator(flow, "The test")
    x = positions[0].numpy()
    evaluate(x)
    assert len(checked) == 1
    for _ in range(20):
        # all atoms at once, farther in all than one atom may
        x = x + 0.5 * JUMP / 22**0.5
        evaluate(x)
    assert len(checked) == 1
    one = x.copy()
    one[3, 1] += 1.01 * JUMP
    evaluate(one)
    assert len(checked) == 2
    assert np.array_equal(checked[1], one)


def test_a_check_that_failed_is_made_again(flow: FlowPotential, positions: Tensor) -> None:
    evaluate = Evaluator(flow, "The test")
    for _ in range(3):
        with pytest.raises(GeometryError):
            evaluate(mirrored(positions[0].numpy()))


@pytest.mark.parametrize("what", ["ala2-smooth", None, 3, torch.nn.Linear(2, 2)])
def test_what_is_not_a_potential_is_refused_by_name(what: Any) -> None:
    for make in (SmoothflowCalculator, to_openmm_force, PES):
        with pytest.raises(ConfigurationError, match=rf"was given a {type(what).__name__}\. Load a model"):
            make(what)


# --- a flow as the solute in a periodic box


def water_box(pdb: Any, solute_first: bool) -> tuple[app.Topology, np.ndarray, list[int]]:
    """The molecule in some water, across a face of the box."""
    field = app.ForceField("amber99sbildn.xml", "tip3p.xml")
    size = 2.0
    if solute_first:
        box = app.Modeller(pdb.topology, pdb.positions)
        box.addSolvent(field, boxSize=openmm.Vec3(size, size, size) * unit.nanometer)
        solute = list(range(22))
        topology, x = box.topology, np.array(box.positions.value_in_unit(unit.nanometer))
    else:
        whole, y, first = water_box(pdb, True)
        rest = app.Modeller(whole, y * unit.nanometer)
        rest.delete([atom for atom in whole.atoms() if atom.index in first])
        rest.add(pdb.topology, y[first] * unit.nanometer)
        topology, x = rest.topology, np.array(rest.positions.value_in_unit(unit.nanometer))
        topology.setPeriodicBoxVectors(whole.getPeriodicBoxVectors())
        solute = list(range(len(x) - 22, len(x)))
    x += [0.0, 0.7, 0.4] - x[solute].mean(0)
    return topology, x, solute


def force_field(topology: app.Topology) -> openmm.System:
    field = app.ForceField("amber99sbildn.xml", "tip3p.xml")
    return field.createSystem(
        topology,
        nonbondedMethod=app.CutoffPeriodic,
        nonbondedCutoff=0.9 * unit.nanometer,
        constraints=app.HBonds,
        removeCMMotion=False,
    )


def mixed_by_openmmml(flow: FlowPotential, topology: app.Topology, solute: list[int]) -> openmm.System:
    return MLPotential("smoothflow", model=flow).createMixedSystem(topology, force_field(topology), solute)


def mixed_by_hand(flow: FlowPotential, topology: app.Topology, solute: list[int]) -> openmm.System:
    """As a user does it: the solute's bonds, angles and torsions go, and the flow comes."""
    system = force_field(topology)
    chosen = set(solute)
    bonded = (openmm.HarmonicBondForce, openmm.HarmonicAngleForce, openmm.PeriodicTorsionForce)
    for i in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(i), bonded):
            system.removeForce(i)
    for i in reversed(range(system.getNumConstraints())):
        if chosen & set(system.getConstraintParameters(i)[:2]):
            system.removeConstraint(i)
    (nonbonded,) = (force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    for n, i in enumerate(solute):
        for j in solute[n + 1 :]:
            nonbonded.addException(i, j, 0, 1, 0, True)
    system.addForce(to_openmm_force(flow, topology, solute))
    return system


Solution = tuple[openmm.System, app.Topology, np.ndarray, list[int]]


@pytest.fixture(params=["OpenMM-ML", "by hand", "by hand, water first"])
def solution(request: pytest.FixtureRequest, flow: FlowPotential, pdb: Any) -> Solution:
    topology, x, solute = water_box(pdb, solute_first="first" not in request.param)
    make = mixed_by_openmmml if request.param == "OpenMM-ML" else mixed_by_hand
    return make(flow, topology, solute), topology, x, solute


def longest_bond(flow: FlowPotential, x: np.ndarray) -> float:
    first, second = np.array(flow.topology.bonds).T
    return float(np.linalg.norm(x[first] - x[second], axis=1).max())


def test_a_solute_is_one_molecule_whole_in_reports_and_right_after_a_restart(
    solution: Solution, flow: FlowPotential
) -> None:
    system, topology, x, solute = solution
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    molecules = [sorted(molecule) for molecule in context.getMolecules()]
    assert sorted(solute) in molecules
    state = context.getState(positions=True, energy=True, enforcePeriodicBox=True)
    written = state.getPositions(asNumpy=True)._value
    assert longest_bond(flow, written[solute]) < 0.17
    # what a PDB file keeps
    file = io.StringIO()
    app.PDBFile.writeFile(topology, state.getPositions(), file)
    file.seek(0)
    restarted = np.array(app.PDBFile(file).positions.value_in_unit(unit.nanometer))
    before = state.getPotentialEnergy()._value
    # PDB files have three digits in Å: 5e-5 nm on forces of 1e3 to 1e4 kJ/mol/nm of some hundred atoms
    assert energy(system, restarted) == pytest.approx(before, abs=60)
    # folded atom by atom, as other programs do, it is refused
    size = topology.getPeriodicBoxVectors()[0][0]._value
    with pytest.raises(openmm.OpenMMException, match="make the molecule whole"):
        energy(system, x - size * np.floor(x / size))
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert energy(copied, x) == pytest.approx(energy(system, x), rel=1e-12)


def test_a_barostat_moves_a_solute_as_a_whole(solution: Solution, flow: FlowPotential) -> None:
    system, _, x, solute = solution
    # every step tries another volume; masses so large that nothing else moves
    system = copy.deepcopy(system)
    for i in range(system.getNumParticles()):
        system.setParticleMass(i, 1e20)
    barostat = openmm.MonteCarloBarostat(1e6 * unit.bar, 300 * unit.kelvin, 1)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    context = openmm.Context(system, openmm.VerletIntegrator(1e-6), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    before = x[solute]
    volume = context.getState().getPeriodicBoxVolume()._value
    context.getIntegrator().step(5)
    state = context.getState(positions=True)
    after = state.getPositions(asNumpy=True)._value[solute]
    assert state.getPeriodicBoxVolume()._value != volume
    moved = after - before
    assert np.abs(moved).max() > 1e-3
    # a molecule that is scaled atom by atom would be squeezed by some 1e-3 nm
    np.testing.assert_allclose(moved - moved.mean(0), 0, atol=1e-6)


def test_a_part_without_known_bonds_is_refused(chain: Potential) -> None:
    chain.topology = None
    with pytest.raises(ConfigurationError, match="knows bonds"):
        to_openmm_force(chain, particles=[0, 1, 2, 3])
