"""Force fields by name: what works, and what is said when it does not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import openmm
import pytest
import torch
from smoothflow.backends.engines.openmm import OpenMMPotential, openmm_provider, to_openmm_force
from smoothflow.core.errors import ConfigurationError, FileFormatError, MissingDependencyError, TopologyError
from smoothflow.core.potential import Potential
from torch import Tensor

AMBER = "amber99sbildn.xml,amber99_obc.xml"


def test_topology_is_that_of_the_file(amber: OpenMMPotential) -> None:
    assert len(amber.topology) == 22
    assert sorted(amber.topology.elements) == sorted("H" * 12 + "C" * 6 + "N" * 2 + "O" * 2)
    assert len(amber.topology.bonds) == 21


def test_the_platform_that_timing_chooses_gives_the_same_energies(
    amber: OpenMMPotential, structure: Path, positions: Tensor
) -> None:
    energy = openmm_provider(AMBER, structure).energy(positions)
    torch.testing.assert_close(energy, amber.energy(positions), rtol=1e-5, atol=1e-3)  # it may compute in float32


def test_a_serialized_system_gives_the_same_energies(
    amber: OpenMMPotential, structure: Path, positions: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "system.xml"
    path.write_text(openmm.XmlSerializer.serialize(amber.system))
    potential = openmm_provider(str(path), structure)
    potential.platform = "Reference"
    torch.testing.assert_close(potential.energy(positions), amber.energy(positions), rtol=1e-14, atol=0)


def test_a_serialized_system_with_code_inside_is_refused(chain: Potential, structure: Path, tmp_path: Path) -> None:
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    system.addForce(to_openmm_force(chain))
    path = tmp_path / "system.xml"
    path.write_text(openmm.XmlSerializer.serialize(system))
    with pytest.raises(ConfigurationError, match="PythonForce"):
        openmm_provider(str(path), structure)


@pytest.mark.parametrize("tag", ["Script", "InitializationScript", "Include"])
def test_a_force_field_with_code_inside_is_refused(structure: Path, tmp_path: Path, tag: str) -> None:
    path = tmp_path / "field.xml"
    path.write_text(f"<ForceField><{tag}>open({str(tmp_path / 'written')!r}, 'w')</{tag}></ForceField>")
    with pytest.raises(ConfigurationError, match=f"has the element {tag}"):
        openmm_provider(str(path), structure)
    assert not (tmp_path / "written").exists()


def test_an_unknown_force_field_is_named_with_the_nearest(structure: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'no force-field file "amber99sbildm\.xml".*amber99sbildn\.xml'):
        openmm_provider("amber99sbildm.xml,amber99_obc.xml", structure)
    with pytest.raises(ConfigurationError, match="after the colon"):
        openmm_provider("", structure)


def test_a_residue_that_the_force_field_does_not_know_is_named(tmp_path: Path) -> None:
    strange = tmp_path / "strange.pdb"
    strange.write_text("HETATM    1 XE    XE A   1       0.000   0.000   0.000  1.00  0.00          XE\nEND\n")
    with pytest.raises(TopologyError, match=r"strange\.pdb.*residue 0 \(XE\)"):
        openmm_provider(AMBER, strange)


def test_a_missing_hydrogen_is_reported(structure: Path, tmp_path: Path) -> None:
    lines = structure.read_text().splitlines(keepends=True)
    atoms = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM")) and line[76:78].strip() == "H"]
    del lines[atoms[0]]
    incomplete = tmp_path / "incomplete.pdb"
    incomplete.write_text("".join(line for line in lines if not line.startswith("CONECT")))
    with pytest.raises(TopologyError, match="missing 1 H atom"):
        openmm_provider(AMBER, incomplete)


def test_files_that_are_missing_or_of_another_kind_are_named(structure: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="There is no file"):
        openmm_provider(AMBER, tmp_path / "nowhere.pdb")
    text = tmp_path / "text.pdb"
    text.write_text("not a molecule\n")
    with pytest.raises(FileFormatError, match=r"text\.pdb"):
        openmm_provider(AMBER, text)
    truncated = tmp_path / "truncated.xml"
    truncated.write_text("<System openmmVersion='8.6'><Particles>")
    with pytest.raises(FileFormatError, match="not a complete XML file"):
        openmm_provider(str(truncated), structure)
    other = tmp_path / "other.xml"
    other.write_text("<Integrator/>")
    with pytest.raises(FileFormatError, match="not an OpenMM force field"):
        openmm_provider(str(other), structure)


def test_files_that_openmm_cannot_read_are_named(structure: Path, tmp_path: Path) -> None:
    system = tmp_path / "system.xml"
    system.write_text('<System openmmVersion="8.6" type="System" version="999"></System>')
    with pytest.raises(FileFormatError, match=r'system\.xml" is not a System that this OpenMM can read: .*version'):
        openmm_provider(str(system), structure)
    field = tmp_path / "field.xml"
    field.write_text("<ForceField><AtomTypes><Type/></AtomTypes></ForceField>")
    with pytest.raises(FileFormatError, match=r"OpenMM cannot read the force field .*field\.xml"):
        openmm_provider(str(field), structure)


def test_force_fields_may_be_files_of_ones_own(
    amber: OpenMMPotential, structure: Path, positions: Tensor, tmp_path: Path
) -> None:
    names = []
    for name in AMBER.split(","):
        shipped = Path(openmm.app.__file__).parent / "data" / name
        names.append(str(tmp_path / f"my-{name}"))
        Path(names[-1]).write_bytes(shipped.read_bytes())
    potential = openmm_provider(",".join(names), structure)
    potential.platform = "Reference"
    torch.testing.assert_close(potential.energy(positions), amber.energy(positions), rtol=1e-14, atol=0)


def test_without_openmm_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch, structure: Path) -> None:
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(MissingDependencyError, match=r"smoothflow\[openmm\]"):
        openmm_provider(AMBER, structure)


def test_virtual_sites_are_refused(pdb: Any) -> None:
    topology = openmm.app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    topology.addAtom("O", openmm.app.element.oxygen, residue)
    topology.addAtom("M", None, residue)
    with pytest.raises(TopologyError, match=r"Atom 1 \(HOH1-M\) has no element: virtual sites"):
        OpenMMPotential(openmm.System(), topology)


def test_two_templates_that_match_are_named_in_one_line(structure: Path) -> None:
    with pytest.raises(TopologyError, match=r"charmm36\.xml does not fit .* ALAD, AANM.*residueTemplates") as caught:
        openmm_provider("charmm36.xml", structure)
    assert "\n" not in str(caught.value)


def test_structures_of_other_formats_give_the_same_energies(
    amber: OpenMMPotential, structure: Path, positions: Tensor, tmp_path: Path
) -> None:
    pdb = openmm.app.PDBFile(str(structure))
    path = tmp_path / "x.cif"
    with path.open("w") as stream:
        openmm.app.PDBxFile.writeFile(pdb.topology, pdb.positions, stream)
    potential = openmm_provider(AMBER, path)
    potential.platform = "Reference"
    torch.testing.assert_close(potential.energy(positions), amber.energy(positions), rtol=1e-14, atol=0)
