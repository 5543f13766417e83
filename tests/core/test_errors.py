"""Messages say what was wrong, where, and what to do."""

from __future__ import annotations

import pytest
from smoothflow.core.errors import ConformanceError, MissingDependencyError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        (
            "smoth",
            ["spline", "smooth"],
            'No transform is called "smoth". Did you mean "smooth"? Known: smooth, spline.',
        ),
        ("qqq", {"spline": 1, "affine": 2}, 'No transform is called "qqq". Known: affine, spline.'),
        ("smooth", (), 'No transform is called "smooth". Known: none.'),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_and_all_known(name: str, known: object, message: str) -> None:
    assert str(UnknownNameError("transform", name, known)) == message  # type: ignore[arg-type]


def test_the_extra_of_a_missing_package_is_named() -> None:
    error = MissingDependencyError("The report", "jinja2", "report")
    assert str(error) == (
        'The report needs the package "jinja2", which is not installed. '
        "Install it with: pip install 'smoothflow[report]'."
    )


def test_a_broken_clause_comes_with_its_numbers_and_its_input() -> None:
    error = ConformanceError('Transform "sine"', "ends", "f(0) is not 0.", "x = 0", {"f(0)": 0.12345678, "limit": 1e-6})
    assert str(error) == (
        'Transform "sine" breaks the clause "ends": f(0) is not 0. '
        "Numbers: f(0) = 0.123457, limit = 1e-06. Input: x = 0."
    )
    assert (error.clause, error.inputs, error.numbers) == ("ends", "x = 0", {"f(0)": 0.12345678, "limit": 1e-6})
    assert str(ConformanceError("It", "ends", "No.", "", {})) == 'It breaks the clause "ends": No.'
