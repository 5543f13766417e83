"""One potential in all engines: one trajectory."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from closed_forms import HarmonicWell
from smoothflow.backends.engines.openmm import OpenMMPotential
from smoothflow.core.engine import DynamicsSettings, Trajectory
from smoothflow.core.errors import ConfigurationError, SimulationError
from smoothflow.core.integrator import State, maxwell_boltzmann
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from torch import Tensor

F64 = torch.float64
CHAIN_MASSES = torch.tensor([12.011, 14.007, 15.999, 1.008], dtype=F64)
ENGINES = ["native", "openmm", "ase", "ipi"]
if sys.version_info >= (3, 12):  # what TorchSim needs
    ENGINES.append("torchsim")
NVE_ENGINES = [*ENGINES, "lammps"]  # those without a thermostat, too


def test_every_engine_of_the_house_is_compared() -> None:
    found = registry()
    ours = {name for name in found.names("engine") if found.entry("engine", name).distribution == "smoothflow"}
    assert ours - {"torchsim"} == set(NVE_ENGINES) - {"torchsim"}, "name it in ENGINES; in NVE_ENGINES without nvt"


def run(name: str, potential: Potential, masses: Tensor, x: Tensor, settings: DynamicsSettings) -> Trajectory:
    v = maxwell_boltzmann(masses, len(x), 300.0, torch.Generator().manual_seed(5))
    return registry().engine(name)().run(potential, masses, x, v, settings)


def assert_same(one: Trajectory, other: Trajectory) -> None:
    torch.testing.assert_close(one.times, other.times, rtol=1e-12, atol=0)
    # rounding, grown by the instability of the motion over 200 steps
    torch.testing.assert_close(one.positions, other.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(one.velocities, other.velocities, rtol=0, atol=1e-7)
    torch.testing.assert_close(one.potential_energy, other.potential_energy, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.kinetic_energy, other.kinetic_energy, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NVE_ENGINES[1:])
def test_nve_of_a_potential_of_ours_is_one_trajectory(name: str, chain: Potential, chain_positions: Tensor) -> None:
    settings = DynamicsSettings(n_steps=200, timestep=0.001, report_every=30)
    assert_same(
        run(name, chain, CHAIN_MASSES, chain_positions, settings),
        run("native", chain, CHAIN_MASSES, chain_positions, settings),
    )


@pytest.mark.parametrize("name", NVE_ENGINES[1:])
def test_nve_of_a_force_field_is_one_trajectory(name: str, amber: OpenMMPotential, positions: Tensor) -> None:
    masses = torch.tensor([amber.system.getParticleMass(i)._value for i in range(22)], dtype=F64)
    settings = DynamicsSettings(n_steps=200, timestep=0.001, report_every=50)
    assert_same(run(name, amber, masses, positions, settings), run("native", amber, masses, positions, settings))


@pytest.mark.parametrize("name", ENGINES)
def test_nvt_without_friction_is_nve(name: str, chain: Potential, chain_positions: Tensor) -> None:
    # exact for BAOAB, and for ASE's scheme too: shows that velocities are those of the positions' instant
    nvt = DynamicsSettings(n_steps=100, timestep=0.001, report_every=30, ensemble="nvt", friction=0.0)
    nve = DynamicsSettings(n_steps=100, timestep=0.001, report_every=30)
    assert_same(
        run(name, chain, CHAIN_MASSES, chain_positions, nvt), run("native", chain, CHAIN_MASSES, chain_positions, nve)
    )


@pytest.mark.parametrize("name", ENGINES)
def test_nvt_keeps_the_temperature(name: str) -> None:
    n_atoms = 500
    masses = torch.ones(n_atoms, dtype=F64)
    # omega dt = 0.1; frames every 0.05 ps are nearly independent at 50/ps
    settings = DynamicsSettings(3000, timestep=0.001, ensemble="nvt", friction=50.0, report_every=50)
    trajectory = run(name, HarmonicWell(n_atoms, 1e4), masses, torch.zeros(1, n_atoms, 3, dtype=F64), settings)
    x, v = trajectory.positions[10:], trajectory.velocities[10:]
    kt = thermal_energy(300.0)
    # 75,000 numbers: standard error of a variance 0.5 %; five of them, and (omega dt)^2 / 4 = 0.25 % for velocities
    assert x.var().item() == pytest.approx(kt / 1e4, rel=0.028)
    assert v.var().item() == pytest.approx(kt, rel=0.028)


@pytest.mark.parametrize("name", ENGINES)
def test_one_seed_gives_one_trajectory(name: str, chain: Potential, chain_positions: Tensor) -> None:
    one, again, other = (
        run(name, chain, CHAIN_MASSES, chain_positions, DynamicsSettings(20, ensemble="nvt", seed=seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.positions, again.positions)
    assert not torch.equal(one.positions, other.positions)
    moved = one.positions[-1] - one.positions[0]
    assert not torch.allclose(moved[0], moved[1])  # replicas have noise of their own


@pytest.mark.parametrize("name", ENGINES)
def test_energies_belong_to_their_frames(name: str, chain: Potential, chain_positions: Tensor) -> None:
    seen: dict[int, State] = {}
    v = maxwell_boltzmann(CHAIN_MASSES, 3, 300.0, torch.Generator().manual_seed(5))
    trajectory = (
        registry()
        .engine(name)()
        .run(chain, CHAIN_MASSES, chain_positions, v, DynamicsSettings(25, ensemble="nvt"), seen.__setitem__)
    )
    assert list(seen) == [0, 10, 20, 25]
    assert torch.equal(seen[20].positions, trajectory.positions[2])
    torch.testing.assert_close(trajectory.positions[0], chain_positions, rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(trajectory.velocities[0], v, rtol=1e-14, atol=1e-16)
    for frame in range(4):
        energy = chain.energy(trajectory.positions[frame])
        torch.testing.assert_close(trajectory.potential_energy[frame], energy, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NVE_ENGINES)
def test_a_run_that_fails_says_where_and_when(name: str, not_finite: Potential, chain_positions: Tensor) -> None:
    v = torch.zeros_like(chain_positions)
    v[1, :, 0] = 200.0  # replica 1 flies beyond 1 nm in 6 fs
    with pytest.raises(SimulationError, match=r"(?s)(?=.*replica 1)(?=.* ps)(?=.*atom 0 \(MOL1-C1\)).*not finite"):
        registry().engine(name)().run(not_finite, CHAIN_MASSES, chain_positions, v, DynamicsSettings(100))


@pytest.mark.parametrize("name", NVE_ENGINES)
def test_a_run_that_fails_late_is_dated_from_its_start(
    name: str, not_finite: Potential, chain_positions: Tensor
) -> None:
    v = torch.zeros_like(chain_positions)
    v[1, :, 0] = 20.0  # replica 1 is beyond 1 nm after 43 to 50 steps of 1 fs: in the fifth stretch of ten
    seen: list[int] = []
    with pytest.raises(SimulationError, match=r"(?s)replica 1") as failure:
        registry().engine(name)().run(
            not_finite, CHAIN_MASSES, chain_positions, v, DynamicsSettings(100), lambda step, _: seen.append(step)
        )
    (time,) = re.findall(r"(\d\.\d+) ps", str(failure.value))
    assert seen[-1] < 1000 * float(time) <= seen[-1] + 10 + 1e-9


def test_an_ensemble_that_an_engine_does_not_run_is_refused(chain: Potential, chain_positions: Tensor) -> None:
    with pytest.raises(ConfigurationError, match="lammps runs nve only, not nvt"):
        run("lammps", chain, CHAIN_MASSES, chain_positions, DynamicsSettings(1, ensemble="nvt"))


@pytest.mark.parametrize("name", NVE_ENGINES)
def test_a_start_of_the_wrong_shape_is_refused(name: str, chain: Potential, chain_positions: Tensor) -> None:
    with pytest.raises(ConfigurationError, match="the potential needs"):
        registry().engine(name)().run(
            chain, CHAIN_MASSES[:3], chain_positions[:, :3], chain_positions[:, :3], DynamicsSettings(1)
        )


PACKAGES = {
    "ase": "ase",
    "openmm": "openmm",
    "ipi": "ipi",
    "lammps": "lammps",
    "torchsim": "torch_sim",
    "metatomic": "metatomic",
}


def without(*packages: str) -> str:
    """Lines of Python that make packages look as if they were not installed."""
    return "import sys\n" + "".join(f"sys.modules[{package!r}] = None\n" for package in packages)


def test_plugins_load_without_the_engines() -> None:
    code = without(*PACKAGES.values()) + (
        "from smoothflow.core.plugins import registry\n"
        f"print([b for b in registry().broken if b.plugin in {list(PACKAGES)}], registry().names('engine'))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == f"[] {registry().names('engine')}"


def test_an_engine_that_is_missing_names_its_extra() -> None:
    engines = [name for name in PACKAGES if name != "metatomic"]
    code = without(*PACKAGES.values()) + (
        "import torch\n"
        "from smoothflow.core.engine import DynamicsSettings\n"
        "from smoothflow.core.plugins import registry\n"
        "from smoothflow import Potential\n"
        "class Rest(Potential):\n"
        "    shape = (2, 3)\n"
        "    def energy(self, positions): return 0 * positions.sum((1, 2))\n"
        "x = torch.rand(1, 2, 3)\n"
        f"for name in {engines}:\n"
        "    try: registry().engine(name)().run(Rest(), torch.ones(2), x, x, DynamicsSettings(1))\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert len(lines) == len(engines)
    for name, line in zip(engines, lines, strict=True):
        assert line.startswith("MissingDependencyError")
        assert f"smoothflow[{name}]" in line
