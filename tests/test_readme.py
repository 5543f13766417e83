"""The README's transform is what it says it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import smoothflow
from smoothflow.testing import check_transform

README = (Path(smoothflow.__file__).parent / "README.md").read_text(encoding="utf-8")


def python_block(first_line: str) -> str:
    """The code block that begins with a line."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return next(block for block in blocks if block.startswith(first_line))


def test_the_transform_of_the_readme_keeps_the_contract() -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(python_block("import math"), names)
    # a class that exists only in a string cannot be pickled
    clauses = ("monotonicity", "log-derivative", "round-trip", "gradients", "smoothness")
    check_transform(names["CubicTransform"], clauses=clauses)
    assert names["smoothflow_transforms"]() == {"cubic": names["CubicTransform"]}


@pytest.mark.parametrize("file", ["CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt"])
def test_files_that_the_readme_names_exist(file: str) -> None:
    assert file in README
    assert (Path(smoothflow.__file__).parent / file).is_file()
