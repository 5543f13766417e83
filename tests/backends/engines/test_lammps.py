"""Potentials in LAMMPS, through fix external."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smoothflow
import torch
from smoothflow.backends.engines.lammps import attach_to_lammps, new_lammps
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import ConfigurationError, SimulationError, TopologyError
from smoothflow.core.integrator import maxwell_boltzmann
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from torch import Tensor

MASSES = torch.tensor([12.011, 14.007, 15.999, 1.008], dtype=torch.float64)
ELEMENTS = ("H", "N", "O", "C")  # of LAMMPS's types: not the chain's order
TYPES = (4, 2, 3, 1)  # of the chain's atoms
KCAL = 4.184
EV = 96.48533212  # CODATA 2018
EV_OF_LAMMPS = 96.48533823  # 1 amu Å^2/ps^2 over LAMMPS's mvv2e of 1.0364269e-4

Start = Callable[..., Any]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes a LAMMPS with the chain, created in the order of the IDs given."""
    made = []

    def make(
        positions: Tensor,
        velocities: Tensor | None = None,
        units: str = "metal",
        boundary: str = "s",
        ids: Sequence[int] = (3, 1, 4, 2),
    ) -> Any:
        lmp = new_lammps()
        made.append(lmp)
        lmp.commands_string(
            f"units {units}\natom_style atomic\natom_modify map array sort 0 0\n"
            f"boundary {boundary} {boundary} {boundary}\n"
            "region everywhere block -50 50 -50 50 -50 50\ncreate_box 4 everywhere\n"
        )
        per_ps = 10 if units == "metal" else 0.01
        v = torch.zeros_like(positions) if velocities is None else velocities * per_ps
        order = [min(i, 4) - 1 for i in ids]
        lmp.create_atoms(
            len(ids),
            list(ids),
            [TYPES[i] for i in order],
            (10 * positions[order]).flatten().tolist(),
            v[order].flatten().tolist(),
        )
        for atom, kind in enumerate(TYPES):
            lmp.command(f"mass {kind} {MASSES[atom].item()!r}")
        return lmp

    yield make
    for lmp in made:
        lmp.close()


def by_id(lmp: Any, name: str) -> np.ndarray:
    return lmp.numpy.extract_atom(name)[np.argsort(lmp.numpy.extract_atom("id"))]


@pytest.mark.parametrize(("units", "energy_unit"), [("metal", EV_OF_LAMMPS), ("real", KCAL)])
def test_lammps_has_our_energy_forces_and_virial(
    units: str, energy_unit: float, start: Start, chain: Potential, chain_positions: Tensor
) -> None:
    lmp = start(chain_positions[0], units=units)
    force = attach_to_lammps(lmp, chain, ELEMENTS)
    lmp.command("run 0")
    energies, forces = chain.energy_and_forces(chain_positions[:1])
    assert force.energy == energies.item()
    assert lmp.get_thermo("pe") == pytest.approx(energies.item() / energy_unit, rel=1e-8)  # digits of the unit
    np.testing.assert_allclose(by_id(lmp, "f"), forces[0].numpy() / (10 * energy_unit), rtol=1e-8)
    # without velocities the pressure is the virial alone
    pressure = lmp.get_thermo("press") * 3 * lmp.get_thermo("vol") / lmp.extract_global("nktv2p")
    assert pressure == pytest.approx((forces[0] * chain_positions[0]).sum().item() / energy_unit, rel=1e-8)


def test_lammps_eV_is_todays_to_seven_digits(start: Start, chain: Potential, chain_positions: Tensor) -> None:
    force = attach_to_lammps(start(chain_positions[0]), chain, ELEMENTS)
    assert force.energy_unit == pytest.approx(EV, rel=1e-7)


@pytest.mark.parametrize("units", ["metal", "real"])
def test_nve_in_lammps_is_our_trajectory(units: str, start: Start, chain: Potential, chain_positions: Tensor) -> None:
    v = maxwell_boltzmann(MASSES, 1, 300.0, torch.Generator().manual_seed(5))
    lmp = start(chain_positions[0], v[0], units=units)
    attach_to_lammps(lmp, chain, ELEMENTS)
    lmp.command("fix nve all nve")
    lmp.command(f"timestep {0.0005 if units == 'metal' else 0.5}")
    lmp.command("run 100")
    ours = (
        registry().engine("verlet")().run(chain, MASSES, chain_positions[:1], v, DynamicsSettings(100, timestep=0.0005))
    )
    # rounding, grown by the instability of the motion over 100 steps: LAMMPS's own constants are used
    np.testing.assert_allclose(by_id(lmp, "x") / 10, ours.positions[-1, 0].numpy(), rtol=0, atol=1e-12)
    total = lmp.get_thermo("etotal") * (EV_OF_LAMMPS if units == "metal" else KCAL)
    assert total == pytest.approx(ours.total_energy[-1].item(), rel=1e-8)  # digits of the unit


def test_a_potential_that_fails_stops_the_run_with_its_error(
    start: Start, not_finite: Potential, chain_positions: Tensor
) -> None:
    x = chain_positions[0].clone()
    v = torch.zeros_like(x)
    v[:, 0] = 200.0  # beyond 1 nm in 6 steps
    lmp = start(x, v)
    attach_to_lammps(lmp, not_finite, ELEMENTS)
    lmp.command("fix nve all nve")
    with pytest.raises(SimulationError, match=r"at step [3-6]: .*force on atom 0 \(MOL1-C1\) is not finite"):
        lmp.command("run 100")
    # a second run from there fails too, and one from elsewhere runs
    with pytest.raises(SimulationError, match="not finite"):
        lmp.commands_string("run 5")
    lmp.command("displace_atoms all move -20 0 0")
    lmp.command("velocity all set 0 0 0")
    before = lmp.extract_global("ntimestep")
    lmp.command("run 5")
    assert lmp.extract_global("ntimestep") == before + 5


def test_other_exceptions_arrive_too(start: Start, chain: Potential, chain_positions: Tensor) -> None:
    def interrupted(positions: Tensor) -> Tensor:
        raise KeyboardInterrupt

    lmp = start(chain_positions[0])
    attach_to_lammps(lmp, chain, ELEMENTS)
    chain.energy = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        lmp.command("run 10")


def test_bad_input_is_refused(start: Start, chain: Potential, chain_positions: Tensor) -> None:
    x = chain_positions[0]
    with pytest.raises(ConfigurationError, match="units lj; only real and metal"):
        attach_to_lammps(start(x, units="lj"), chain, ELEMENTS)
    with pytest.raises(ConfigurationError, match=r"periodic boundaries.*boundary s s s"):
        attach_to_lammps(start(x, boundary="p"), chain, ELEMENTS)
    with pytest.raises(TopologyError, match="has 4 atoms and LAMMPS has 3"):
        attach_to_lammps(start(x, ids=(1, 2, 3)), chain, ELEMENTS)
    with pytest.raises(TopologyError, match="IDs are not 1 to 4"):
        attach_to_lammps(start(x, ids=(1, 2, 3, 7)), chain, ELEMENTS)
    lmp = start(x)
    with pytest.raises(ConfigurationError, match="4 atom types and 2 elements"):
        attach_to_lammps(lmp, chain, ("C", "N"))
    with pytest.raises(TopologyError, match="atom 0 is C in the first and H in the second"):
        attach_to_lammps(lmp, chain, ELEMENTS[::-1])
    attach_to_lammps(lmp, chain, ELEMENTS)
    with pytest.raises(ConfigurationError, match='fix "smoothflow" already'):
        attach_to_lammps(lmp, chain, ELEMENTS)
    chain.shape = (12,)
    with pytest.raises(ConfigurationError, match="no molecule's"):
        attach_to_lammps(start(x), chain, ELEMENTS)


def test_boundaries_that_become_periodic_stop_the_run(start: Start, chain: Potential, chain_positions: Tensor) -> None:
    lmp = start(chain_positions[0])
    attach_to_lammps(lmp, chain, ELEMENTS)
    lmp.command("change_box all boundary p p p")
    with pytest.raises(SimulationError, match="periodic boundaries"):
        lmp.command("run 1")


def test_the_engine_runs_nve_only(chain: Potential, chain_positions: Tensor) -> None:
    with pytest.raises(ConfigurationError, match="nve only"):
        registry().engine("lammps")().run(
            chain, MASSES, chain_positions, chain_positions, DynamicsSettings(1, ensemble="nvt")
        )


def test_the_engine_leaves_no_files(
    chain: Potential, chain_positions: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rest = torch.zeros_like(chain_positions)
    registry().engine("lammps")().run(chain, MASSES, chain_positions, rest, DynamicsSettings(5))
    assert list(tmp_path.iterdir()) == []


def test_the_example_conserves_energy(model_file: Path) -> None:
    script = Path(smoothflow.__file__).parent / "examples" / "lammps" / "nve.py"
    found = subprocess.run([sys.executable, script, model_file], capture_output=True, text=True, check=True)
    energies = [float(line.split()[2]) for line in found.stdout.splitlines()]
    assert len(energies) == 5
    assert np.ptp(energies) < 0.5  # kcal/mol: second order in 0.5 fs, from 30 kcal/mol of kinetic and potential energy
