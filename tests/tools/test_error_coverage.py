"""The short form of the count of errors that hold: seconds, on the torus with known answers."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script() -> Any:
    folder = str(Path(__file__).parents[2] / "tools" / "soak")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("error_coverage")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def torus(script: Any) -> Any:
    return script.Torus(100_000)


@pytest.fixture(scope="module")
def tally(torus: Any) -> Any:
    return torus.experiments(40, 4, 2000, 0.01)


def test_errors_of_four_walkers_hold(tally: Any) -> None:
    for name, n in tally.quoted.items():
        # 95 % of 40 less three standard deviations of 1.4; errors of independent frames hold in 12 to 25 of 40
        assert tally.held[name] >= math.floor(0.95 * n - 3 * math.sqrt(0.05 * 0.95 * n)), name
    assert tally.quoted["NLL"] == 40
    assert tally.quoted["log Z by BAR"] == 40


def test_errors_of_the_divergence_are_not_too_large(tally: Any) -> None:
    # its terms cancel: without their covariance the error would be twice the spread
    values, errors = np.array(tally.found["forward KL"]).T
    # a spread of 40 is known to 11 %, Student's t adds some percent
    assert 0.7 < np.mean(errors) / np.std(values) < 1.5


def test_one_walker_that_hardly_moves_quotes_nothing_of_its_frames(torus: Any) -> None:
    tally = torus.experiments(5, 1, 2000, 0.0005)
    for name in ("NLL", "mean energy of frames", "log Z by BAR", "forward KL", "psi > 0 from frames"):
        assert tally.quoted[name] == 0, name
    assert tally.quoted["log Z by weights"] == 5


def test_answers_on_the_torus_are_consistent(torus: Any) -> None:
    truth = torus.truth
    # NLL = <u> + log Z + KL
    assert truth["NLL"] == pytest.approx(truth["mean energy of frames"] + 7.0 + truth["forward KL"], abs=1e-9)
    assert 0 < truth["ESS"] < 1
