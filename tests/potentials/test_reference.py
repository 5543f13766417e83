"""Force fields by name: ``reference(NAME, STRUCTURE)``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from smoothflow import ForceField, load, molecule_path, reference, topology_from_pdb
from smoothflow.cli.completion import PROVIDERS
from smoothflow.core.errors import ConfigurationError, FileFormatError, MissingDependencyError, UnknownNameError
from smoothflow.runs.references import names_no_code
from torch import Tensor

AMBER = "amber99sbildn.xml,amber99_obc.xml"


@pytest.fixture(scope="module")
def positions() -> Tensor:
    """Capped alanine as it ships, and six configurations about it."""
    start = topology_from_pdb(molecule_path("capped-alanine"))[1].double()
    noise = torch.randn((6, 22, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([start, start + 0.003 * noise])


@pytest.mark.parametrize("files", [AMBER, "amber14-all.xml"])
def test_torch_gives_the_energies_and_forces_of_openmm(files: str, positions: Tensor) -> None:
    from smoothflow.backends.engines.openmm import OpenMMPotential

    by_openmm = reference(f"openmm:{files}", "capped-alanine")
    assert isinstance(by_openmm, OpenMMPotential)
    by_openmm.platform = "Reference"  # computes in float64
    ours = reference(f"torch:{files}", "capped-alanine").energy_and_forces(positions)
    theirs = by_openmm.energy_and_forces(positions)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-11, atol=1e-8)  # sums of 1e3 terms of up to 1e3 kJ/mol
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-11, atol=1e-7)


def test_torch_computes_in_the_precision_that_is_asked_for(positions: Tensor) -> None:
    double = reference(f"torch:{AMBER}", "capped-alanine")
    single = reference(f"torch:{AMBER}", "capped-alanine", dtype=torch.float32)
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    # float32 has 7 digits, and terms of some 500 kJ/mol cancel
    torch.testing.assert_close(single.energy(positions), double.energy(positions), rtol=0, atol=1e-2)
    assert reference(f"torch:{AMBER}", "capped-alanine", device="meta").device.type == "meta"


def test_a_structure_is_a_name_a_path_or_a_serialized_system_of_one(tmp_path: Path, positions: Tensor) -> None:
    import openmm

    by_name = reference(f"torch:{AMBER}", "capped-alanine")
    by_path = reference(f"torch:{AMBER}", molecule_path("capped-alanine"))
    xml = tmp_path / "system.xml"
    xml.write_text(openmm.XmlSerializer.serialize(reference(f"openmm:{AMBER}", "capped-alanine").system))
    by_system = reference(f"torch:{xml}", "capped-alanine")
    assert isinstance(by_name, ForceField)
    for other in (by_path, by_system):
        torch.testing.assert_close(other.energy(positions), by_name.energy(positions), rtol=1e-12, atol=1e-9)


def test_a_model_is_a_reference_without_a_structure(positions: Tensor) -> None:
    model = load("ala2-affine")
    assert torch.equal(reference("smoothflow:ala2-affine").energy(positions), model.energy(positions))


def test_charge_and_multiplicity_reach_the_calculator() -> None:
    potential = reference("ase:tblite:GFN2-xTB", "[OH]", multiplicity=2)
    assert potential.topology.elements == ("O", "H")
    with pytest.raises(ConfigurationError, match="multiplicity"):
        reference("ase:tblite:GFN2-xTB", "[OH]", multiplicity=1)
    with pytest.raises(ConfigurationError, match="does not compute electrons"):
        reference(f"torch:{AMBER}", "capped-alanine", charge=1)


def test_what_torch_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    import openmm

    system = reference(f"openmm:{AMBER}", "capped-alanine").system
    force = openmm.CMAPTorsionForce()
    force.addMap(2, [0.0] * 4)
    system.addForce(force)
    xml = tmp_path / "system.xml"
    xml.write_text(openmm.XmlSerializer.serialize(system))
    with pytest.raises(ConfigurationError, match="CMAPTorsionForce"):
        reference(f"torch:{xml}", "capped-alanine")


def test_a_wrong_name_says_what_is_meant() -> None:
    with pytest.raises(UnknownNameError, match='Did you mean "torch"'):
        reference(f"troch:{AMBER}", "capped-alanine")
    with pytest.raises(ConfigurationError, match=r'Did you mean "openmm:amber99sbildn.xml"'):
        reference("amber99sbildn.xml", "capped-alanine")
    with pytest.raises(FileFormatError, match="There is no file"):
        reference(f"torch:{AMBER}", "nothing.pdb")


def test_without_openmm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(MissingDependencyError, match=r"smoothflow\[openmm\]"):
        reference(f"torch:{AMBER}", "capped-alanine")


def test_a_file_may_name_a_force_field_in_torch_and_the_shell_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # names are kept between calls
    assert names_no_code(f"torch:{AMBER}")
    assert not names_no_code("torch:module.py")
    assert PROVIDERS("to") == ["torch:"]
