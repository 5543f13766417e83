"""The notebooks are the tutorials, and run headless."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import smoothflow

DOCS = Path(smoothflow.__file__).parent / "docs"
BUILD = runpy.run_path(str(DOCS / "notebooks" / "build.py"))


def test_there_is_a_notebook_of_each() -> None:
    assert sorted(path.stem for path in (DOCS / "notebooks").glob("*.ipynb")) == sorted(BUILD["NAMES"])


@pytest.mark.parametrize("name", BUILD["NAMES"])
def test_a_notebook_is_its_tutorial(name: str) -> None:
    markdown = (DOCS / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    stored = nbformat.read(DOCS / "notebooks" / f"{name}.ipynb", as_version=4)
    assert stored == BUILD["notebook"](markdown), "run: python docs/notebooks/build.py"


@pytest.mark.slow
def test_a_notebook_with_a_cell_of_the_shell_runs_headless(tmp_path: Path) -> None:
    """One of them: the cells of each are the blocks of its tutorial, which `test_tutorials` runs."""
    path = tmp_path / "ase.ipynb"
    made = nbformat.read(DOCS / "notebooks" / path.name, as_version=4)
    made.cells += BUILD["notebook"]("```bash\nwords='from the shell'\necho $words\n```").cells
    made.cells[-1].id = "shell"
    nbformat.write(made, path)
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    done = subprocess.run(
        [scripts / "jupyter-execute", "--inplace", path.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "kT" in printed
    assert printed.endswith("from the shell\n")
