"""Force fields of OpenMM from the names of their files and a PDB file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...core.errors import ConfigurationError, FileFormatError, TopologyError
from .border import import_optional
from .openmm_potential import OpenMMPotential


def openmm_provider(argument: str, structure: Path) -> OpenMMPotential:
    """The potential of a molecule in free space, flexible and without constraints.

    Args:
        argument: Force-field files, comma-separated, like ``amber99sbildn.xml,amber99_obc.xml``: of those that come
            with OpenMM or paths; or the path of one serialized System.
        structure: PDB file with all hydrogens.

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
    topology = _read_pdb(app, structure).topology
    if len(names) == 1 and Path(names[0]).is_file() and _root_tag(Path(names[0])) == "System":
        return OpenMMPotential(_read_system(openmm, Path(names[0])), topology)
    force_field = _read_force_field(app, names)
    try:
        system = force_field.createSystem(
            topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, removeCMMotion=False
        )
    except ValueError as error:
        reason = str(error).partition("For more information")[0].strip()
        raise TopologyError(
            f'The force field {", ".join(names)} does not fit "{structure}": {reason} '
            "Add missing atoms (hydrogens, terminal caps), rename the residue, or add a force-field file that has it."
        ) from error
    return OpenMMPotential(system, topology)


def _read_pdb(app: Any, structure: Path) -> Any:
    if not structure.is_file():
        raise FileFormatError(f'There is no file "{structure}". Give the PDB file of the molecule.')
    try:
        pdb = app.PDBFile(str(structure))
    # OpenMM's reader raises whatever a wrong column gives
    except Exception as error:
        raise FileFormatError(f'"{structure}" is no PDB file that OpenMM can read: {error}.') from error
    if pdb.topology.getNumAtoms() == 0:
        raise FileFormatError(f'"{structure}" has no atoms: it is no PDB file, or an empty one.')
    return pdb


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
