"""Minima of a potential of hydrogen peroxide whose two minima and their energies are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import PEROXIDE, TwoMinima
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.errors import GeometryError
from smoothflow.core.units import thermal_energy
from smoothflow.runs.progress import silent
from smoothflow.studies.physics.minima import examine_minima, find_minima
from torch import Tensor

COORDINATES = InternalCoordinates(PEROXIDE)
AT = TwoMinima.torsion


def at(torsion: float) -> Tensor:
    values = [0.121 if name.startswith("bond") else 1.75 for name in COORDINATES.codomain.names[:-1]]
    return COORDINATES.decode(torch.tensor([[*values, torsion]], dtype=torch.float64))[0]


@pytest.mark.parametrize("b", [5.0, -5.0])
def test_minima_away_from_the_start_are_found_with_their_energies(b: float) -> None:
    start = at(AT + 0.3)
    found = find_minima(TwoMinima(b), start, PEROXIDE, 300.0, reference=TwoMinima(0.0))
    assert [minimum.is_given for minimum in found] == ([True, False] if b > 0 else [False, True])
    given, other = sorted(found, key=lambda minimum: not minimum.is_given)
    assert given.energy == pytest.approx(0, abs=0.05)
    # the minimizations end at a tenth of kT per width, so 0.01 kJ/mol above the minimum
    assert other.energy == pytest.approx(2 * b, abs=0.05)
    assert other.reference == pytest.approx(0.0, abs=0.05)
    (turn,) = other.torsions.values()
    assert math.remainder(turn - 110 - 180, 360) == pytest.approx(0, abs=1)


def test_a_deeper_minimum_away_from_the_start_fails() -> None:
    (finding,) = examine_minima(TwoMinima(-5.0), at(AT), PEROXIDE, 300.0, 0, None, silent)
    assert not finding.holds
    assert finding.measured.value == pytest.approx(-10 / thermal_energy(300.0), abs=0.02)
    (finding,) = examine_minima(TwoMinima(5.0), at(AT), PEROXIDE, 300.0, 0, None, silent)
    assert finding.holds


@pytest.mark.parametrize(("b", "holds"), [(-20.0, True), (40.0, False)])
def test_a_minimum_far_below_the_reference_fails(b: float, holds: bool) -> None:
    # in the reference the other minimum is 2b above the one at the start, in the potential 10
    findings = examine_minima(TwoMinima(5.0), at(AT), PEROXIDE, 300.0, 0, TwoMinima(b), silent)
    assert [finding.holds for finding in findings] == [True, holds]
    assert findings[1].measured.value == pytest.approx(max(0.0, 2 * b - 10) / thermal_energy(300.0), abs=0.05)


def test_configurations_that_end_in_no_minimum_are_an_error() -> None:
    class Undefined(TwoMinima):
        def energy(self, positions: Tensor) -> Tensor:
            return positions.sum((-1, -2)) * math.nan

    with pytest.raises(GeometryError, match="ended in a minimum"):
        find_minima(Undefined(0.0), at(AT), PEROXIDE, 300.0)
