"""Notebooks of tutorials, made from their Markdown, which is what is edited: python docs/notebooks/build.py

They hold no output: it would differ from machine to machine and from run to run, and hide what has changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NAMES = ("ase", "openmm", "molecule", "transform")
FOLDER = Path(__file__).parent
TUTORIALS = FOLDER.parent / "tutorials"

BLOCK = re.compile(r"^```(python|bash)\n(.*?)\n```$", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([\w-]+\.md)")
"""Of one tutorial to another."""


def notebook(markdown: str) -> Any:
    """The notebook of a tutorial: its blocks are code cells, those for the shell with ``%%bash``."""
    texts = BLOCK.split(LINK.sub(r"](../tutorials/\1", markdown))
    made = new_notebook(metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}})
    # a text, the language of a block, the block, the next text, ...
    for i in range(0, len(texts), 3):
        if texts[i].strip():
            made.cells.append(new_markdown_cell(texts[i].strip(), id=f"text-{i // 3}"))
        if i + 2 < len(texts):
            source = texts[i + 2] if texts[i + 1] == "python" else f"%%bash -e\n{texts[i + 2]}"
            made.cells.append(new_code_cell(source, id=f"code-{i // 3}"))
    return made


if __name__ == "__main__":
    for name in NAMES:
        made = notebook((TUTORIALS / f"{name}.md").read_text(encoding="utf-8"))
        nbformat.validate(made)
        nbformat.write(made, FOLDER / f"{name}.ipynb")
