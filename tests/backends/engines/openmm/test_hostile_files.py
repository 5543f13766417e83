"""XML for OpenMM that somebody made to run code or to take the process down: one error, and nothing is run."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import openmm
import pytest
import torch
from openmm import app
from smoothflow.backends.engines.openmm import OpenMMPotential, openmm_provider
from smoothflow.backends.engines.openmm.checked_xml import checked_force_field, read_xml
from smoothflow.core.errors import ConfigurationError, FileFormatError, SmoothflowError
from torch import Tensor

DATA = Path(app.__file__).parent / "data"
REFUSED_IN_ANOTHERS = ("Script", "InitializationScript", "Include")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What code in a file would make."""
    return tmp_path / "written"


@pytest.fixture
def python_force(written: Path) -> ElementTree.Element:
    """A serialized force that touches `written` when OpenMM reads it."""
    force = openmm.PythonForce(print)
    element = ElementTree.fromstring(openmm.XmlSerializer.serialize(force))
    bomb = pickle.dumps(Bomb(written)).hex()
    harmless = pickle.dumps(print).hex()
    for part in element.iter():
        for name, value in part.attrib.items():
            if value.lower() == harmless:
                part.set(name, bomb)
    return element


def system_text(*forces: ElementTree.Element) -> str:
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(system))
    parent = root.find("Forces")
    assert parent is not None
    parent.extend(forces)
    return ElementTree.tostring(root, encoding="unicode")


def refused(path: Path, text: str, structure: Path, error: type[SmoothflowError] = ConfigurationError) -> str:
    path.write_text(text)
    with pytest.raises(error) as caught:
        openmm_provider(str(path), structure)
    return str(caught.value)


def test_a_pickle_in_a_system_would_run_without_the_check(python_force: ElementTree.Element, written: Path) -> None:
    openmm.XmlSerializer.deserialize(system_text(python_force))
    assert written.exists()


@pytest.mark.parametrize("tag", ["Force", "force", "Anything", "Function", "System"])
def test_a_force_that_holds_a_pickle_is_refused_under_any_element(
    python_force: ElementTree.Element, written: Path, structure: Path, tmp_path: Path, tag: str
) -> None:
    python_force.tag = tag
    assert "PythonForce" in refused(tmp_path / "system.xml", system_text(python_force), structure)
    assert not written.exists()


def test_a_root_that_holds_a_pickle_is_refused(
    python_force: ElementTree.Element, written: Path, structure: Path, tmp_path: Path
) -> None:
    python_force.tag = "System"
    text = ElementTree.tostring(python_force, encoding="unicode")
    assert "PythonForce" in refused(tmp_path / "system.xml", text, structure)
    assert not written.exists()


def test_a_pickle_inside_another_force_is_refused(
    python_force: ElementTree.Element, written: Path, structure: Path, tmp_path: Path
) -> None:
    outer = openmm.CustomCVForce("x")
    outer.addCollectiveVariable("x", openmm.HarmonicBondForce())
    element = ElementTree.fromstring(openmm.XmlSerializer.serialize(outer))
    (variable,) = element.iter("CollectiveVariable")
    variable[:] = [python_force]
    assert "PythonForce" in refused(tmp_path / "system.xml", system_text(element), structure)
    assert not written.exists()


@pytest.mark.parametrize(
    "kind", ["TorchForce", "PlumedForce", "pythonforce", "VerletIntegrator", "State", "System", ""]
)
def test_types_that_are_not_forces_of_openmm_are_refused(structure: Path, tmp_path: Path, kind: str) -> None:
    refused(tmp_path / "system.xml", system_text(ElementTree.Element("Force", type=kind)), structure)


@pytest.mark.parametrize("kind", ["HarmonicBondForce", "VerletIntegrator", "Continuous1DFunction"])
def test_a_root_of_another_type_is_refused(structure: Path, tmp_path: Path, kind: str) -> None:
    # OpenMM would take what it makes for a System, whatever it is
    refused(tmp_path / "system.xml", system_text().replace('type="System"', f'type="{kind}"'), structure)


def test_a_force_where_a_function_belongs_is_refused(structure: Path, tmp_path: Path) -> None:
    outer = openmm.CustomCVForce("f(1)")
    outer.addTabulatedFunction("f", openmm.Continuous1DFunction([0.0, 1.0], 0, 1))
    element = ElementTree.fromstring(openmm.XmlSerializer.serialize(outer))
    (function,) = element.iter("Function")
    function.set("type", "HarmonicBondForce")
    refused(tmp_path / "system.xml", system_text(element), structure)


def test_integrators_and_states_are_refused(structure: Path, tmp_path: Path) -> None:
    integrator = openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.001))
    refused(tmp_path / "integrator.xml", integrator, structure, FileFormatError)


def test_all_that_openmm_writes_of_numbers_and_formulas_is_read(
    amber: OpenMMPotential, structure: Path, positions: Tensor, tmp_path: Path
) -> None:
    """A System with forces in forces, a table and names has the energy that it had."""
    system = openmm.XmlSerializer.clone(amber.system)
    variable = openmm.CustomCVForce("f(b)")
    variable.addTabulatedFunction("f", openmm.Continuous1DFunction([0.0, 1.0, 4.0], 0, 1))
    bond = openmm.CustomBondForce("r*k; k=2")
    bond.addBond(0, 1, [])
    variable.addCollectiveVariable("b", bond)
    variable.setEnergyFunction("f(b)+2*b")
    variable.setName('a "name" of <one>')
    system.addForce(variable)
    path = tmp_path / "system.xml"
    path.write_text(openmm.XmlSerializer.serialize(system))
    found, expected = openmm_provider(str(path), structure), OpenMMPotential(system, amber.topology)
    found.platform = expected.platform = "Reference"
    torch.testing.assert_close(found.energy(positions), expected.energy(positions), rtol=1e-14, atol=0)
    assert found.system.getForces()[-1].getName() == 'a "name" of <one>'


FIELD = '<ForceField><AtomTypes><Type name="a" class="a" element="C" mass="12"/></AtomTypes>{}</ForceField>'


@pytest.mark.parametrize("section", ["NonbondedForce", "LennardJonesForce"])
@pytest.mark.parametrize("value", ["{}", "({}, 1)[1]", "True or {}", "9**9**9", "true", " True"])
def test_attributes_that_openmm_evaluates_are_literals(
    written: Path, structure: Path, tmp_path: Path, section: str, value: str
) -> None:
    code = value.format(f"open('{written}', 'w')")
    text = f'<{section} coulomb14scale="1" lj14scale="1" useDispersionCorrection="{code}"/>'
    assert "useDispersionCorrection" in refused(tmp_path / "field.xml", FIELD.format(text), structure)
    assert not written.exists()


@pytest.mark.parametrize(
    "text",
    [
        "<script>1</script>",
        "<Scripts>1</Scripts>",
        "<Residues><Script>1</Script></Residues>",
        "<NonbondedForces/>",
        '<HarmonicBondForce><Bond class1="__import__(\'os\')" class2="a" length="1" k="1"/></HarmonicBondForce>',
        '<HarmonicBondForce><Bond class1="a" class2="a" length="f()" k="1"/></HarmonicBondForce>',
        '<Patches><Patch name="p" residues="99999999"/></Patches>',
        "<CMAPTorsionForce><Map>1 2 exec</Map></CMAPTorsionForce>",
    ],
)
def test_force_fields_hold_known_elements_and_literals_only(structure: Path, tmp_path: Path, text: str) -> None:
    refused(tmp_path / "field.xml", FIELD.format(text), structure)


def test_a_file_that_is_included_is_not_read(written: Path, structure: Path, tmp_path: Path) -> None:
    (tmp_path / "other.xml").write_text(f"<ForceField><Script>open('{written}', 'w')</Script></ForceField>")
    for name in ("other.xml", "../../etc/passwd", "amber99sbildn.xml"):
        text = FIELD.format(f'<Include file="{name}"/>')
        assert "Name the included files beside it" in refused(tmp_path / "field.xml", text, structure)
    assert not written.exists()


def test_a_file_here_with_the_name_of_an_installed_one_is_neither_run_nor_taken_for_it(
    written: Path, structure: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("amber99sbildn.xml", "amber99_obc.xml"):
        shutil.copy(DATA / name, name)
    openmm_provider("amber99sbildn.xml,amber99_obc.xml", structure)  # the same content, so there is no question
    field = Path("amber99sbildn.xml").read_text()
    own = field.replace("</ForceField>", f"<Script>open('{written}', 'w')</Script></ForceField>")
    Path("amber99sbildn.xml").write_text(own)
    with pytest.raises(ConfigurationError, match=r"Write \./amber99sbildn\.xml"):
        openmm_provider("amber99sbildn.xml,amber99_obc.xml", structure)
    with pytest.raises(ConfigurationError, match="Script"):
        openmm_provider("./amber99sbildn.xml,amber99_obc.xml", structure)
    Path("amber99sbildn.xml").write_text(field + " ")
    openmm_provider("./amber99sbildn.xml,amber99_obc.xml", structure)
    # OpenMM would look here first for what an installed file includes
    Path("amber14").mkdir()
    Path("amber14/protein.ff14SB.xml").write_text(own)
    openmm_provider("amber14-all.xml", structure)
    assert not written.exists()


@pytest.mark.parametrize("name", sorted(path.relative_to(DATA).as_posix() for path in DATA.glob("*99*.xml")))
def test_what_openmm_ships_without_scripts_is_read_from_anyone(name: str) -> None:
    root = read_xml(DATA / name)
    if root.tag == "ForceField" and not any(root.findall(tag) for tag in REFUSED_IN_ANOTHERS):
        before = {(e.tag, *sorted(e.attrib.items())) for e in root.iter() if "Info" not in e.tag}
        after = ElementTree.fromstring(checked_force_field(root, DATA / name))
        known = {(e.tag, *sorted(e.attrib.items())) for e in after.iter()}
        assert {item[0] for item in before - known} <= {"DateGenerated", "Reference", "Source"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><System type="System">&a;</System>', "document type"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><System type="System"/>', "document type"),
        ("<System>" + "<a>" * 200_000 + "</a>" * 200_000 + "</System>", "levels deep"),
        ("<ForceField>" + "<a/>" * 2_000_000 + "</ForceField>", "elements"),
        ('<?xml version="1.0" encoding="utf-16"?><x:System xmlns:x="y" type="System"/>', "not an OpenMM force field"),
    ],
)
def test_files_that_are_larger_than_they_look_are_refused(
    structure: Path, tmp_path: Path, text: str, message: str
) -> None:
    assert message in refused(tmp_path / "system.xml", text, structure, FileFormatError)


def doubling(n: int) -> str:
    """A short formula that grows to 2^n terms."""
    return "a0;" + ";".join(f"a{i}=a{i + 1}+a{i + 1}" for i in range(n)) + f";a{n}=r"


FORMULAS: dict[str, Callable[[], str]] = {
    "parentheses": lambda: "(" * 3000 + "r" + ")" * 3000,
    "signs": lambda: "-" * 5000 + "r",
    "definitions that double": lambda: doubling(60),
    "definitions of one name that double": lambda: "a" + ";a=a+a" * 60 + ";a=r",
    "a long product": lambda: "*".join("r" * 1000),
    "a long text": lambda: "r" * 100_000,
}


@pytest.mark.parametrize("place", [22, -1, 2**31 - 1])
def test_a_force_on_atoms_that_there_are_not_is_an_error_of_ours(
    amber: OpenMMPotential, structure: Path, positions: Tensor, tmp_path: Path, place: int
) -> None:
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(amber.system))
    bond = root.find(".//Bond")
    assert bond is not None
    bond.set("p1", str(place))
    path = tmp_path / "system.xml"
    path.write_text(ElementTree.tostring(root, encoding="unicode"))
    with pytest.raises(ConfigurationError, match="Illegal particle index"):
        openmm_provider(str(path), structure).energy(positions)


@pytest.mark.parametrize("count", ["2147483647", "-1", "1001", "9" * 5000, "٣"])
def test_counts_of_which_openmm_would_make_as_many_objects_are_refused(
    structure: Path, tmp_path: Path, count: str
) -> None:
    compound = openmm.XmlSerializer.serialize(openmm.CustomCompoundBondForce(7, "distance(p1,p2)"))
    centroid = openmm.XmlSerializer.serialize(openmm.CustomCentroidBondForce(7, "distance(g1,g2)"))
    for text in (compound.replace('particles="7"', f'particles="{count}"'), centroid.replace('"7"', f'"{count}"')):
        refused(tmp_path / "system.xml", system_text(ElementTree.fromstring(text)), structure)
    text = f'<CustomManyParticleForce energy="1" particlesPerSet="{count}" bondCutoff="3"/>'
    refused(tmp_path / "field.xml", FIELD.format(text), structure)


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_that_would_take_openmm_down_are_refused(structure: Path, tmp_path: Path, name: str) -> None:
    element = ElementTree.fromstring(openmm.XmlSerializer.serialize(openmm.CustomBondForce("r")))
    element.set("energy", FORMULAS[name]())
    assert "too long" in refused(tmp_path / "system.xml", system_text(element), structure)
    text = f'<CustomBondForce energy="{FORMULAS[name]()}"/>'
    assert "too long" in refused(tmp_path / "field.xml", FIELD.format(text), structure)
    text = f'<CustomGBForce><EnergyTerm type="SingleParticle">{FORMULAS[name]()}</EnergyTerm></CustomGBForce>'
    assert "too long" in refused(tmp_path / "gb.xml", FIELD.format(text), structure)
