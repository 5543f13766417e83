"""A potential in LAMMPS: its own velocity Verlet makes our trajectory, and errors stop it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from smoothflow import FlowPotential
from smoothflow.backends.engines.lammps import attach_to_lammps, new_lammps
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import (
    ConfigurationError,
    GeometryError,
    MissingDependencyError,
    SimulationError,
    TopologyError,
)
from smoothflow.core.integrator import maxwell_boltzmann
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from torch import Tensor

MASSES = {"C": 12.011, "H": 1.008, "N": 14.007, "O": 15.999}
ELEMENTS = tuple(MASSES)
CHAIN = ("C", "N", "O", "H")
VELOCITY = {"real": 0.01, "metal": 10.0}
"""One nm/ps in Å/fs and in Å/ps."""
ENERGY = {"real": 4.184, "metal": 96.48533212331002}
"""One kcal/mol and one eV in kJ/mol."""

NewLammps = Callable[..., Any]


@pytest.fixture
def lammps_of() -> Iterator[NewLammps]:
    """Makes a LAMMPS with atoms at given positions (nm) and velocities (nm/ps), created in reverse order."""
    made = []

    def make(
        elements: tuple[str, ...],
        x: Tensor,
        v: Tensor | None = None,
        units: str = "metal",
        boundary: str = "s s s",
        options: str = "atom_modify map array",
    ) -> Any:
        lmp = new_lammps()
        made.append(lmp)
        for line in (
            f"units {units}",
            "atom_style atomic",
            options,
            f"boundary {boundary}",
            "region all block -100 100 -100 100 -100 100",
            "create_box 4 all",
            *(f"mass {i} {mass}" for i, mass in enumerate(MASSES.values(), start=1)),
        ):
            lmp.command(line)
        ids = list(range(len(elements), 0, -1))
        types = [ELEMENTS.index(elements[i - 1]) + 1 for i in ids]
        v = torch.zeros_like(x) if v is None else v
        lmp.create_atoms(
            len(ids), ids, types, (10 * x).flip(0).ravel().tolist(), (VELOCITY[units] * v).flip(0).ravel().tolist()
        )
        lmp.command("fix nve all nve")
        return lmp

    yield make
    for lmp in made:
        lmp.close()


def read(lmp: Any, what: str, n_atoms: int) -> Tensor:
    order = np.argsort(lmp.numpy.extract_atom("id")[:n_atoms])
    return torch.from_numpy(lmp.numpy.extract_atom(what)[:n_atoms][order])


@pytest.mark.parametrize("units", ["real", "metal"])
def test_nve_is_our_velocity_verlet(lammps_of: NewLammps, flow: FlowPotential, positions: Tensor, units: str) -> None:
    elements = flow.topology.elements
    masses = torch.tensor([MASSES[element] for element in elements], dtype=torch.float64)
    v = maxwell_boltzmann(masses, 1, 300.0, torch.Generator().manual_seed(0))
    settings = DynamicsSettings(n_steps=50, timestep=0.0005, report_every=50)
    ours = registry().engine("native")().run(flow, masses, positions[:1], v, settings)
    lmp = lammps_of(elements, positions[0], v[0], units)
    attach_to_lammps(lmp, flow, ELEMENTS)
    lmp.command(f"timestep {0.0005 * (1000 if units == 'real' else 1)}")
    lmp.command("run 50")
    # rounding, grown by the instability of the motion over 50 steps
    torch.testing.assert_close(read(lmp, "x", 22) / 10, ours.positions[-1, 0], rtol=0, atol=1e-10)
    torch.testing.assert_close(read(lmp, "v", 22) / VELOCITY[units], ours.velocities[-1, 0], rtol=0, atol=1e-7)
    # LAMMPS's eV is 6e-8 larger than that of the SI of 2019
    assert lmp.get_thermo("pe") * ENERGY[units] == pytest.approx(ours.potential_energy[-1, 0].item(), rel=2e-7)


def test_a_minimizer_of_lammps_finds_the_bond(lammps_of: NewLammps, chain: Potential, chain_positions: Tensor) -> None:
    lmp = lammps_of(CHAIN, chain_positions[0])
    attach_to_lammps(lmp, chain, ELEMENTS)
    lmp.command("minimize 0 1e-6 500 5000")
    x = (read(lmp, "x", 4) / 10)[None]
    assert chain.energy(x) < chain.energy(chain_positions[:1])
    # 1e-6 eV/Å is 1e-3 kJ/mol/nm
    assert chain.energy_and_forces(x)[1].abs().max() < 2e-3


def test_a_potential_that_fails_stops_the_run(
    lammps_of: NewLammps, not_finite: Potential, chain_positions: Tensor
) -> None:
    v = torch.zeros_like(chain_positions[0])
    v[:, 0] = 200.0  # beyond 1 nm in 5 steps
    lmp = lammps_of(CHAIN, chain_positions[0], v)
    attach_to_lammps(lmp, not_finite, ELEMENTS)
    lmp.command("timestep 0.001")
    with pytest.raises(SimulationError, match=r"at step [56]: .*atom 0 \(MOL1-C1\) is not finite"):
        lmp.command("run 100")
    assert lmp.extract_global("ntimestep") < 7
    # what was mended runs again
    stopped = lmp.extract_global("ntimestep")
    lmp.command("displace_atoms all move -10 0 0")
    lmp.command("velocity all zero linear")
    lmp.command("run 2")
    assert lmp.extract_global("ntimestep") == stopped + 2


def test_what_cannot_run_is_refused(lammps_of: NewLammps, chain: Potential, chain_positions: Tensor) -> None:
    x = chain_positions[0]
    with pytest.raises(ConfigurationError, match="boundary s s s"):
        attach_to_lammps(lammps_of(CHAIN, x, boundary="s p s"), chain, ELEMENTS)
    with pytest.raises(TopologyError, match="has 4 atoms and LAMMPS has 3"):
        attach_to_lammps(lammps_of(CHAIN[:3], x[:3]), chain, ELEMENTS)
    with pytest.raises(TopologyError, match="atom 1 is N in the first and O in the second"):
        attach_to_lammps(lammps_of(("C", "O", "N", "H"), x), chain, ELEMENTS)
    with pytest.raises(ConfigurationError, match="4 atom types and 3 elements"):
        attach_to_lammps(lammps_of(CHAIN, x), chain, ELEMENTS[:3])
    lmp = lammps_of(CHAIN, x)
    attach_to_lammps(lmp, chain, ELEMENTS)
    with pytest.raises(ConfigurationError, match='a fix "smoothflow" already'):
        attach_to_lammps(lmp, chain, ELEMENTS)
    lmp = new_lammps()
    lmp.command("units lj")
    with pytest.raises(ConfigurationError, match="units lj; only real and metal"):
        attach_to_lammps(lmp, chain, ELEMENTS)
    lmp.close()


def test_ids_count_from_one(lammps_of: NewLammps, chain: Potential, chain_positions: Tensor) -> None:
    lmp = lammps_of(CHAIN, chain_positions[0])
    lmp.command("set atom 4 type 1")
    for line in ("group last id 1", "delete_atoms group last compress no"):
        lmp.command(line)
    lmp.create_atoms(1, [7], [1], [9.0, 9.0, 9.0], [0.0, 0.0, 0.0])
    with pytest.raises(TopologyError, match="atom IDs are not 1 to 4"):
        attach_to_lammps(lmp, chain, ELEMENTS)


class Interrupted(Exception):
    """Nothing of ours."""


def test_what_else_a_potential_raises_comes_out_as_it_is(
    lammps_of: NewLammps, chain: Potential, chain_positions: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a topology, elements are not compared
    chain.topology = None
    lmp = lammps_of(("H", "H", "H", "H"), chain_positions[0])
    attach_to_lammps(lmp, chain, ELEMENTS)
    lmp.command("run 1")

    def interrupted(positions: Tensor) -> Tensor:
        raise Interrupted("in the potential")

    monkeypatch.setattr(chain, "energy", interrupted)
    with pytest.raises(Interrupted, match=r"^in the potential$"):
        lmp.command("run 1")


def test_the_engine_has_no_thermostat(chain: Potential, chain_positions: Tensor) -> None:
    masses = torch.tensor([MASSES[element] for element in CHAIN], dtype=torch.float64)
    settings = DynamicsSettings(1, ensemble="nvt")
    with pytest.raises(ConfigurationError, match="The engine lammps runs nve only"):
        registry().engine("lammps")().run(chain, masses, chain_positions, 0 * chain_positions, settings)


def test_boundaries_and_units_are_seen_when_it_runs(
    lammps_of: NewLammps, chain: Potential, chain_positions: Tensor
) -> None:
    lmp = lammps_of(CHAIN, 0.1 * chain_positions[0])
    attach_to_lammps(lmp, chain, ELEMENTS)
    with pytest.raises(SimulationError, match="Multiply them by 10") as raised:
        lmp.command("run 1")
    assert isinstance(raised.value.__cause__, GeometryError)
    lmp = lammps_of(CHAIN, chain_positions[0])
    attach_to_lammps(lmp, chain, ELEMENTS)
    lmp.command("change_box all boundary p p p")
    with pytest.raises(SimulationError, match="boundary s s s"):
        lmp.command("run 1")


def test_lammps_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(MissingDependencyError, match=r"smoothflow\[lammps\]"):
        new_lammps()
