"""Force fields of OpenMM from the names of their files and a structure."""

from __future__ import annotations

import difflib
import filecmp
import io
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from ....core.errors import ConfigurationError, FileFormatError, TopologyError
from ....core.optional import import_optional
from ....molecules.conversions import topology_to_openmm
from ....molecules.topologies import read_structure
from .checked_xml import checked_force_field, checked_system, read_xml
from .potential import OpenMMPotential


def openmm_provider(argument: str, structure: str | Path) -> OpenMMPotential:
    """The potential of a molecule in free space, flexible and without constraints.

    Files that are not installed may be a stranger's: OpenMM is given only what is data in them.

    Args:
        argument: Force-field files, comma-separated, like ``amber99sbildn.xml,amber99_obc.xml``: of those that come
            with OpenMM or with an installed package of force fields, or paths; or the path of one serialized System.
        structure: PDB, mmCIF, SDF or SMILES file with all hydrogens.

    Raises:
        FileFormatError: If a file is missing or is not what it should be.
        ConfigurationError: If there is no such force field, or a file of one's own holds what might be code.
        TopologyError: If the force field does not know a residue of the structure.
        MissingDependencyError: If OpenMM is not installed.
    """
    structure = Path(structure)
    openmm = import_optional("openmm", "The openmm provider", "openmm")
    app = import_optional("openmm.app", "The openmm provider", "openmm")
    names = [name.strip() for name in argument.split(",") if name.strip()]
    if not names:
        raise ConfigurationError(
            "The openmm provider needs force-field files after the colon, like "
            '"openmm:amber99sbildn.xml,amber99_obc.xml".'
        )
    topology = topology_to_openmm(read_structure(structure).topology)
    if len(names) == 1 and Path(names[0]).is_file() and names[0] not in _shipped(app):
        root = read_xml(Path(names[0]))
        if root.tag == "System":
            return OpenMMPotential(_read_system(openmm, root, Path(names[0])), topology)
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


def _read_system(openmm: Any, root: Element, path: Path) -> Any:
    text = checked_system(root, path)
    try:
        return openmm.XmlSerializer.deserializeSystem(text)
    # a missing number is a ValueError, what is wrong otherwise an OpenMMException
    except (openmm.OpenMMException, ValueError) as error:
        raise FileFormatError(f'"{path}" is not a System that this OpenMM can read: {error}.') from error


def _read_force_field(app: Any, names: list[str]) -> Any:
    shipped = _shipped(app)
    sources: list[str | io.StringIO] = []
    for name in names:
        path = Path(name)
        if path.is_file():
            if name in shipped and not filecmp.cmp(path, shipped[name], shallow=False):
                raise ConfigurationError(
                    f'"{name}" is a file here and also the name of a force field that is installed, and they differ. '
                    f"Write ./{name} for the file here, or move it away for the other."
                )
            # OpenMM is given what was checked, and not the file
            sources.append(io.StringIO(checked_force_field(read_xml(path), path)))
        elif name in shipped:
            sources.append(str(shipped[name]))
        else:
            near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.5)
            hint = f" Close: {', '.join(near)}." if near else ""
            raise ConfigurationError(
                f'There is no force-field file "{name}", neither here nor among the {len(shipped)} that are '
                f"installed.{hint}"
            )
    try:
        return app.ForceField(*sources)
    # OpenMM's reader raises whatever a missing attribute or an unknown tag gives
    except Exception as error:
        raise FileFormatError(f"OpenMM cannot read the force field {', '.join(names)}: {error}.") from error


def _shipped(app: Any) -> dict[str, Path]:
    """The force-field files that come with OpenMM or an installed package of force fields, by name."""
    folders = [Path(app.__file__).parent / "data"]
    for point in entry_points(group="openmm.forcefielddir"):
        try:
            folders.append(Path(point.load()()))
        # a package that is broken offers nothing; OpenMM passes over it as well
        except Exception:
            continue
    # where two have one name, OpenMM takes that of the first folder
    found = {
        path.relative_to(folder).as_posix(): path for folder in reversed(folders) for path in folder.rglob("*.xml")
    }
    return dict(sorted(found.items()))
