"""``smoothflow check`` of integrators, engines, and potentials of other people's plug-ins."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from smoothflow.backends.flows.affine import AffineTransform
from smoothflow.cli import console
from smoothflow.core.manifolds import Line
from smoothflow.core.plugins import hookimpl, registry
from smoothflow.runs.progress import Progress
from torch import Tensor

Smoothflow = Callable[..., Any]

ARGON = """\
HETATM    1 AR   AR  A   1       0.000   0.000   0.000  1.00  0.00          AR
HETATM    2 AR   AR  A   2       3.820   0.000   0.000  1.00  0.00          AR
HETATM    3 AR   AR  A   3       1.910   3.308   0.000  1.00  0.00          AR
"""

PLUGIN = """
import torch
from smoothflow import Potential, hookimpl


class LennardJones(Potential):
    def __init__(self, topology, fault):
        super().__init__()
        self.topology, self.shape, self.fault, self.n_calls = topology, (len(topology), 3), fault, 0

    def energy(self, positions):
        self.n_calls += 1
        if self.fault == "signal" and self.n_calls > 12:
            raise KeyboardInterrupt
        first, second = torch.triu_indices(len(self.topology), len(self.topology), 1)
        inverse = (0.34 / (positions[:, first] - positions[:, second]).norm(dim=-1)) ** 6
        return 4 * (inverse**2 - inverse).sum(1)

    def energy_and_forces(self, positions):
        energy, forces = super().energy_and_forces(positions)
        return energy, 1.05 * forces if self.fault == "scaled" else forces


def provider(argument, structure):
    from smoothflow.molecules.topologies import topology_from_pdb

    if argument == "broken":
        raise ValueError("no parameters for argon")
    return LennardJones(topology_from_pdb(structure)[0], argument)


provider.arguments = ("cutoff",)


def loader(path):
    raise KeyError("weights")


@hookimpl
def smoothflow_providers():
    return {"lj": provider}


@hookimpl
def smoothflow_loaders():
    return {".lj": loader}
"""

SHORT = ("--replicas", 2, "--nve-time", 0.05, "--order-time", 0.05, "--nvt-steps", 200)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("smoothflow_lj")
    exec(PLUGIN, module.__dict__)
    monkeypatch.setitem(sys.modules, "smoothflow_lj", module)
    registry().register(module, "lj", "smoothflow-lj", "1.2")
    yield
    registry().unregister("lj")


@pytest.fixture
def argon(tmp_path: Path) -> Path:
    path = tmp_path / "argon.pdb"
    path.write_text(f"{ARGON}END\n")
    return path


@pytest.mark.usefixtures("plugin")
def test_atoms_without_bonds_are_examined_and_what_needs_bonds_is_left_out(smoothflow: Smoothflow, argon: Path) -> None:
    found = smoothflow("check", "lj:", "--structure", argon, *SHORT, "--json")
    report = json.loads(found.out)
    nothing = "the atoms have no bonds to scan"
    assert report["left_out"] == {"continuity": nothing, "minima": nothing}
    tests = {finding["test"] for finding in report["findings"]}
    assert {"forces", "net force", "hessian", "conservation", "temperature"} <= tests
    assert found.code in (0, 2)
    assert "unforeseen" not in found.err
    # what will run, and for how long, is said before
    assert "continuity: left out" in found.err
    assert "In total " in found.err


@pytest.mark.usefixtures("plugin")
def test_one_atom_is_examined_as_far_as_it_goes(smoothflow: Smoothflow, tmp_path: Path) -> None:
    path = tmp_path / "ion.pdb"
    path.write_text(ARGON.splitlines()[0] + "\nEND\n")
    found = smoothflow("check", "lj:", "--structure", path, *SHORT, "--json")
    assert set(json.loads(found.out)["left_out"]) == {"continuity", "minima", "conservation", "order"}
    assert "unforeseen" not in found.err


@pytest.mark.usefixtures("plugin")
def test_wrong_forces_are_found_though_they_vanish_at_the_structure(smoothflow: Smoothflow, argon: Path) -> None:
    # the triangle's sides are those of the minimum, 2^(1/6) 0.34 nm, to 0.001 nm
    found = smoothflow("check", "lj:scaled", "--structure", argon, "--tests", "forces", "--json")
    (finding,) = json.loads(found.out)["findings"]
    assert not finding["holds"]
    # 5 % of the largest force of a frame, which is once to twice their root mean square
    assert 0.04 < finding["measured"] < 0.12
    assert found.code == 2


@pytest.mark.usefixtures("plugin")
def test_an_interruption_keeps_the_finished_tests(smoothflow: Smoothflow, argon: Path) -> None:
    found = smoothflow("check", "lj:signal", "--structure", argon, *SHORT, "--json")
    assert found.code == 130
    report = json.loads(found.out)
    assert [finding["test"] for finding in report["findings"]][:1] == ["forces"]
    assert "thermostat" in report["unfinished"]
    assert not report["passed"]
    assert "Interrupted; stopped before: " in found.err


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("subject", ["lj:broken", "model.lj"])
def test_an_exception_of_a_plug_in_is_named_as_the_plug_ins(
    smoothflow: Smoothflow, argon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.lj").touch()
    # a model knows its molecule
    found = smoothflow("check", subject, *(["--structure", argon] if ":" in subject else []))
    assert found.code == 2
    what = "ValueError: no parameters for argon" if subject == "lj:broken" else "KeyError: 'weights'"
    assert f'error: The plug-in "lj" of smoothflow-lj 1.2 failed: {what} Correct' in found.err
    assert "Traceback" not in found.err


@pytest.mark.usefixtures("plugin")
def test_what_comes_after_a_colon_is_not_taken_for_a_name(smoothflow: Smoothflow) -> None:
    assert 'Did you mean "lj:cutoff"?' in smoothflow("check", "cutof").err
    assert 'Did you mean "ase:tblite"?' in smoothflow("check", "tblite").err
    assert 'Did you mean "langevin"?' in smoothflow("check", "langevn").err
    missing = smoothflow("check", "tblite:GFN2-xTB")
    assert (missing.code, 'Did you mean "ase:tblite:GFN2-xTB"?' in missing.err) == (2, True)


def test_an_integrator_and_an_engine_are_checked_by_name(smoothflow: Smoothflow) -> None:
    found = smoothflow("check", "velocity_verlet", "--json")
    report = json.loads(found.out)
    assert (found.code, report["subject"], report["passed"]) == (0, 'Integrator "velocity_verlet"', True)
    assert "conservation" in [row["clause"] for row in report["clauses"]]
    found = smoothflow("check", "native", "--json")
    report = json.loads(found.out)
    assert (found.code, report["subject"], report["passed"]) == (0, 'Engine "native"', True)


def test_every_broken_clause_is_explained(smoothflow: Smoothflow) -> None:
    class Shifted(AffineTransform):
        name = "shifted"
        manifolds = frozenset({Line})

        def _inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
            x, log_derivative = super()._inverse(y, params)
            return x, log_derivative + 1

    module = types.ModuleType("smoothflow_shifted")
    vars(module)["smoothflow_transforms"] = hookimpl(specname="smoothflow_transforms")(lambda: {"shifted": Shifted})
    registry().register(module, "shifted", "smoothflow-shifted", "1.0")
    try:
        found, table = smoothflow("check", "shifted", "--json"), smoothflow("check", "shifted")
    finally:
        registry().unregister("shifted")
    errors = {row["clause"]: row["error"] for row in json.loads(found.out)["clauses"]}
    broken = {clause: error for clause, error in errors.items() if error}
    assert {"log-derivative", "round-trip"} <= set(broken)
    assert "Input: x = " in broken["round-trip"]
    assert found.code == table.code == 2
    assert "log-derivatives of inverse of forward do not cancel" in " ".join(re.sub("│", " ", table.out).split())


@pytest.mark.slow
def test_a_thermostat_is_checked_with_several_frictions(smoothflow: Smoothflow) -> None:
    found = smoothflow("check", "langevin", "--json")
    report = json.loads(found.out)
    assert report["passed"]
    temperatures = [row["manifold"] for row in report["clauses"] if row["clause"] == "temperature"]
    assert temperatures == ["1/ps", "10/ps", "100/ps"]


def test_progress_is_a_line_a_minute_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.task_progress() as report:
        for second in range(150):
            now[0] = float(second)
            report(Progress("thermostat", second, 150))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["thermostat: 60 of 150 after 1 min", "thermostat: 120 of 150 after 2 min"]
