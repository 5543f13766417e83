"""References to force fields in files: only those that name no code."""

from __future__ import annotations

import pytest
from smoothflow.runs.references import names_no_code


@pytest.mark.parametrize(
    "reference",
    [
        "openmm:amber99sbildn.xml,amber99_obc.xml",
        "openmm: a.xml , /home/x/b.xml",
        "torch:amber99sbildn.xml,amber99_obc.xml, compiled",
        "smoothflow:ala2-smooth",
        "smoothflow:some/model.safetensors",
        "committee:ala2-smooth, some/model.safetensors",
        "ase:emt",
        "ase:tblite",
        "ase:tblite:GFN2-xTB",
    ],
)
def test_references_that_are_data(reference: str) -> None:
    assert names_no_code(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "ase:os:abort",
        "ase:os",
        "ase:vasp",
        "ase:tblite:x:y",
        "ase:emt\n",
        "ase:emt:x",
        "smoothflow:x.pt2",
        "committee:ala2-smooth,x.pt2",
        "committee:ala2-smooth,",
        "committee:ase:os",
        "smoothflow:x.safetensors.pt2",
        "smoothflow:dir/x",
        "smoothflow:x.h5",
        "smoothflow:../x",
        "metatomic:model.pt",
        "openmm:a.py",
        "openmm:a.xml,b.py",
        "openmm:",
        "openmm:a.xml,",
        "torch:compiled",
        "openmm:a.xml,compiled",
        "plugin:argument",
        "plugin:x.xml",
        "OPENMM:x.xml",
        " openmm:x.xml",
        "",
        ":",
    ],
)
def test_references_that_may_be_code(reference: str) -> None:
    assert not names_no_code(reference)
