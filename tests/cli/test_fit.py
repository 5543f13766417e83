"""``smoothflow fit``: what cannot be fitted is said in one line; the fit itself is tested in tests/studies/fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Smoothflow


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such.pdb"], 'There is no file "no-such.pdb"'),
        (["capped-alanine", "--budget", "soon"], '"soon" is not a duration. Write it like 30min'),
        (["capped-alanine", "--budget", "1s"], "A budget of 1 s is too short"),
        (["capped-alanine", "--ess", "90"], "ess must lie between 0 and 1; it is 90"),
        (["capped-alanine", "--reference", "amber99sbildn.xml"], 'Did you mean "openmm:amber99sbildn.xml"?'),
        (["capped-alanine", "--charge", "1"], "does not compute electrons"),
        (["water", "--reference", "openmm:amber99sbildn.xml"], "water"),
    ],
    ids=["structure", "budget", "short", "target", "reference", "charge", "molecule"],
)
def test_impossible_fits_are_refused_in_one_line(
    smoothflow: Smoothflow, tmp_path: Path, arguments: list[str], said: str
) -> None:
    found = smoothflow("fit", *arguments, "--out", tmp_path / "fit")
    assert found.code == 2
    assert said in found.err
    assert found.err.count("\n") == 1
    assert found.out == ""


def test_a_foreign_folder_is_left_alone(smoothflow: Smoothflow, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    found = smoothflow("fit", "capped-alanine", "--out", tmp_path)
    assert found.code == 2
    assert "does not hold a fit" in found.err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
