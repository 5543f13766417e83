"""Force fields of OpenMM from the names of their files and a structure."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...coordinates.topologies import read_structure, topology_to_openmm
from ...core.errors import ConfigurationError, FileFormatError, TopologyError
from .border import import_optional
from .openmm_potential import OpenMMPotential


def openmm_provider(argument: str, structure: Path) -> OpenMMPotential:
    """The potential of a molecule in free space, flexible and without constraints.

    Args:
        argument: Force-field files, comma-separated, like ``amber99sbildn.xml,amber99_obc.xml``: of those that come
            with OpenMM or paths; or the path of one serialized System.
        structure: PDB, mmCIF, SDF or SMILES file with all hydrogens.

    Raises:
        FileFormatError: If a file is missing or is not what it should be.
        ConfigurationError: If there is no such force field.
        TopologyError: If the force field does not know a residue of the structure.
        MissingDependencyError: If OpenMM is not installed.
    """
    openmm = import_optional("openmm", "The openmm provider", "openmm")
    app = import_optional("openmm.app", "The openmm provider", "openmm")
    names = [name.strip() for name in argument.split(",") if name.strip()]
    if not names:
        raise ConfigurationError(
            "The openmm provider needs force-field files after the colon, like "
            '"openmm:amber99sbildn.xml,amber99_obc.xml".'
        )
    topology = topology_to_openmm(read_structure(structure).topology)
    if len(names) == 1 and Path(names[0]).is_file() and _root_tag(Path(names[0])) == "System":
        return OpenMMPotential(_read_system(openmm, Path(names[0])), topology)
    force_field = _read_force_field(app, names)
    try:
        system = force_field.createSystem(
            topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, removeCMMotion=False
        )
    # OpenMM's builder raises Exception, ValueError and KeyError for templates, atoms, bonds and parameters alike
    except Exception as error:
        raise _explained(error, names, structure) from error
    return OpenMMPotential(system, topology)


def _explained(error: Exception, names: list[str], structure: Path) -> TopologyError:
    """What OpenMM says when it cannot build a System, with what to do about it."""
    reason = " ".join(str(error).partition("For more information")[0].split()).rstrip(".")
    if "matching templates" in reason:
        remedy = (
            "Build the System in a script with forcefield.createSystem(..., residueTemplates={residue: NAME}), save it "
            "with openmm.XmlSerializer.serialize, and give that file: openmm:SYSTEM.xml. Or use a force field with one "
            "template for the residue."
        )
    elif "parameters" in reason or isinstance(error, KeyError):
        remedy = "Add the force-field file that has these parameters."
    else:
        remedy = (
            "Add missing atoms (hydrogens, terminal caps), rename the residue, or add a force-field file that has it."
        )
    kind = "" if isinstance(error, ValueError) or type(error) is Exception else f"{type(error).__name__}: "
    return TopologyError(f'The force field {", ".join(names)} does not fit "{structure}": {kind}{reason}. {remedy}')


def _root(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise FileFormatError(f'"{path}" is no complete XML file: {error}.') from error


def _root_tag(path: Path) -> str:
    return _root(path).tag


def _read_system(openmm: Any, path: Path) -> Any:
    # OpenMM unpickles the function in such a force: reading the file would run code
    if any(force.get("type") == "PythonForce" for force in _root(path).iter("Force")):
        raise ConfigurationError(
            f'"{path}" contains a PythonForce, and reading it would run the code inside. If you trust the file, '
            "deserialize it yourself and use OpenMMPotential."
        )
    try:
        return openmm.XmlSerializer.deserialize(path.read_text(encoding="utf-8"))
    except openmm.OpenMMException as error:
        raise FileFormatError(f'"{path}" is no System that this OpenMM can read: {error}.') from error


def _read_force_field(app: Any, names: list[str]) -> Any:
    shipped = _shipped(app)
    for name in names:
        if Path(name).is_file():
            root = _root(Path(name))
            if root.tag != "ForceField":
                raise FileFormatError(f'"{name}" is no OpenMM force field: its XML is of another kind.')
            # OpenMM runs what is in a script, also in files that are included
            for tag in ("Script", "InitializationScript", "Include"):
                if next(root.iter(tag), None) is not None:
                    raise ConfigurationError(
                        f'"{name}" has the element {tag}, and reading it may run code. If you trust it, make '
                        "a System with it yourself and use OpenMMPotential."
                    )
        elif name not in shipped:
            near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.5)
            hint = f" Close: {', '.join(near)}." if near else ""
            raise ConfigurationError(
                f'There is no force-field file "{name}", neither here nor among the {len(shipped)} that come with '
                f"OpenMM.{hint}"
            )
    try:
        return app.ForceField(*names)
    # OpenMM's reader raises whatever a missing attribute or an unknown tag gives
    except Exception as error:
        raise FileFormatError(f"OpenMM cannot read the force field {', '.join(names)}: {error}.") from error


def _shipped(app: Any) -> list[str]:
    """Names of the force-field files that come with OpenMM."""
    folder = Path(app.__file__).parent / "data"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.xml"))
