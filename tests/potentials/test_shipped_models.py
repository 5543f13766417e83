"""Models that ship: they load anywhere, say what they are, obey physics, and compute what they computed when stored.

The stored values are in shipped_values.json; ``python tests/potentials/store_shipped_values.py`` writes it anew, which
is needed whenever a model is replaced.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import smoothflow
import torch
from smoothflow import FlowPotential, hookimpl, load, registry
from smoothflow.core.errors import FileFormatError, PluginError, TopologyError, UnknownNameError
from smoothflow.core.integrator import State
from smoothflow.core.plugins import Registry
from smoothflow.integrators.velocity_verlet import VelocityVerlet
from smoothflow.molecules.elements import masses
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.model_file import add_provenance, read_header, read_model
from smoothflow.potentials.shipped import FOLDER, shipped_models
from smoothflow.testing import check_potential
from smoothflow.testing.potentials import POTENTIAL_CLAUSES
from torch import Tensor

ROOT = Path(smoothflow.__file__).parent
VALUES = Path(__file__).with_name("shipped_values.json")
N_STEPS, TIMESTEP = 1000, 0.001
NAMES = ("ala2-affine", "ala2-refined", "ala2-smooth", "ala2-spline")


def run_nve(potential: FlowPotential, positions: Tensor, velocities: Tensor) -> tuple[State, State]:
    """The first and the last state of 1 ps at constant energy."""
    start = State.start(potential, positions, velocities, masses(potential.coordinates.topology))
    integrator, state = VelocityVerlet(TIMESTEP), start
    for _ in range(N_STEPS):
        state = integrator.step(potential, state)
    return start, state


def digest(name: str) -> str:
    return hashlib.sha256(registry().model_path(name).read_bytes()).hexdigest()


@pytest.fixture
def stored(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a model computed when its values were stored, as tensors."""
    name = request.node.callspec.params["name"]
    values: dict[str, Any] = json.loads(VALUES.read_text())[name]
    assert values.pop("sha256") == digest(name), "the model was replaced: run tests/potentials/store_shipped_values.py"
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}


def test_the_models_are_these() -> None:
    assert tuple(shipped_models()) == NAMES
    assert sorted(json.loads(VALUES.read_text())) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_energies_and_forces_are_those_that_were_stored(name: str, stored: dict[str, Tensor]) -> None:
    energy, forces = load(name).energy_and_forces(stored["positions"])
    # float64 in another order of operations: 1e-13 and 1e-11 were seen; forces are of the order of 1e3
    torch.testing.assert_close(energy, stored["energies"], rtol=0, atol=1e-8)
    torch.testing.assert_close(forces, stored["forces"], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_dynamics_of_1_ps_ends_where_it_did(name: str, stored: dict[str, Tensor]) -> None:
    start, end = run_nve(load(name), stored["positions"][:2], stored["velocities"])
    torch.testing.assert_close(start.total_energy, stored["first_total_energy"], rtol=0, atol=1e-8)
    # ten times what a displacement of 1e-13 nm, a thousand times the rounding of positions, grew to when stored: below
    # 1e-9 nm, but as far as atoms move where forces jump at the knots of a spline
    for found, last, spread in (
        (end.positions, "last_positions", "spread_of_positions"),
        (end.total_energy, "last_total_energy", "spread_of_total_energy"),
    ):
        torch.testing.assert_close(found, stored[last], rtol=0, atol=10 * float(stored[spread]))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_keeps_the_contract_of_potentials(name: str, stored: dict[str, Tensor]) -> None:
    # finite differences span knots of the spline, where its forces jump
    kept = [clause for clause in POTENTIAL_CLAUSES if name != "ala2-spline" or clause not in ("forces", "curvature")]
    check_potential(load(name), stored["positions"][:2], kept, smooth=name in ("ala2-refined", "ala2-smooth"))


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_how_good_the_model_is_and_where_it_comes_from(name: str) -> None:
    header = read_header(registry().model_path(name))
    origin = header["provenance"]
    assert (origin["name"], origin["licence"]) == (name, "MIT")
    assert origin["made"]
    assert origin["training"]["steps"] > 0
    assert len(origin["frames"]["sha256"]) == 64
    assert {"smoothflow", "torch"} <= set(origin["versions"])
    evaluation = origin["evaluation"]
    assert evaluation["temperature"] == header["temperature"] == 300.0
    for measure in ("nll", "forward_kl", "reverse_kl", "ess", "log_z", "force_mse_data", "force_mse_samples"):
        # an error, or why there is none
        assert (evaluation[measure]["error"] or 0) > 0 or evaluation[measure]["reason"]
        assert evaluation[measure]["n"] >= 100
    assert origin["training"].get("flow") is None, "the architecture is said once, under settings"


def test_models_are_small_and_go_into_the_wheel() -> None:
    files = sorted(FOLDER.glob("*.safetensors"))
    assert all(path.stat().st_size < 8e6 for path in files)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {path for pattern in settings["package-data"]["smoothflow"] for path in ROOT.glob(pattern)}
    assert set(files) <= packed


def test_loading_needs_neither_network_nor_pickle() -> None:
    program = """
import sys
from smoothflow import load, registry
names = registry().names("model")
seen = set()
sys.addaudithook(lambda event, _: seen.add(event) if event.startswith(("socket.", "pickle.")) else None)
for name in names:
    load(name)
print(len(names), *sorted(seen))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(len(NAMES))]


def test_a_model_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = load("ala2-affine").sample(2, torch.Generator().manual_seed(0))
    energy = load("ala2-affine").energy(x)
    path = registry().model_path("ala2-affine")
    structure = molecule_path("capped-alanine")
    for same in (
        load(path),
        read_model(path),
        registry().load("ala2-affine"),
        registry().provider("smoothflow")("ala2-affine", structure),
    ):
        assert torch.equal(same.energy(x), energy)
    with pytest.raises(TopologyError, match="22 atoms"):
        registry().provider("smoothflow")("ala2-affine", molecule_path("water"))
    # a file of that name goes before a model that ships
    monkeypatch.chdir(tmp_path)
    Path("ala2-affine").write_bytes(registry().model_path("ala2-spline").read_bytes())
    assert not torch.equal(load("ala2-affine").energy(x), energy)


def test_a_wrong_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r'"ala2-smoth"\. Did you mean "ala2-smooth"\? Known: ala2-affine'):
        load("ala2-smoth")
    with pytest.raises(FileFormatError, match=r'no file "runs/ala2-smooth".*name a model .*: ala2-affine'):
        load("runs/ala2-smooth")


def test_plugins_ship_models_too_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(registry().model_path("ala2-affine").read_bytes()[:100_000])

    @hookimpl
    def smoothflow_models() -> Mapping[str, Any]:
        return {"theirs": broken}

    registry().register(SimpleNamespace(smoothflow_models=smoothflow_models), "theirs")
    try:
        with pytest.raises(FileFormatError, match="not a smoothflow model, or it is truncated"):
            load("theirs")
        with pytest.raises(FileFormatError, match="not a smoothflow model, or it is truncated"):
            add_provenance(broken, tmp_path / "copy.safetensors", {})
    finally:
        registry().unregister("theirs")

    @hookimpl(specname="smoothflow_models")
    def text() -> Mapping[str, Any]:
        return {"theirs": "broken.safetensors"}

    found = Registry()
    found.register(SimpleNamespace(text=text), "theirs")
    assert found.broken[0].error == 'PluginError: smoothflow_models: "theirs" must be a path, not str.'
    with pytest.raises(PluginError, match="is broken"):
        found.model_path("theirs")


def test_more_provenance_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    path = registry().model_path("ala2-smooth")
    add_provenance(path, tmp_path / "copy.safetensors", {"name": "other", "note": 1})
    copy, original = read_header(tmp_path / "copy.safetensors"), read_header(path)
    assert copy["provenance"] == {**original["provenance"], "name": "other", "note": 1}
    assert {k: v for k, v in copy.items() if k != "provenance"} == {
        k: v for k, v in original.items() if k != "provenance"
    }
    ours = load(path, torch.float32).flow.state_dict()
    for name, weight in load(tmp_path / "copy.safetensors", torch.float32).flow.state_dict().items():
        assert torch.equal(weight, ours[name])


PUBLISH = ROOT / "examples" / "alanine-dipeptide" / "publish.py"


def publish(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PUBLISH), *map(str, arguments), "--name", "mine"], capture_output=True, text=True
    )


def test_publishing_writes_metrics_and_licence_or_nothing(tmp_path: Path) -> None:
    model = registry().model_path("ala2-affine")
    evaluation = read_header(model)["provenance"]["evaluation"]
    metrics, output = tmp_path / "metrics.json", tmp_path / "mine.safetensors"
    metrics.write_text(json.dumps(evaluation | {"temperature": 310.0}))
    refused = publish(model, metrics, output)
    assert refused.returncode == 1
    assert "measured at 310.0 K, and the model is for 300.0 K" in refused.stderr
    assert not output.exists()
    metrics.write_text(json.dumps(evaluation))
    assert publish(model, metrics, output).returncode == 0
    origin = read_header(output)["provenance"]
    assert (origin["name"], origin["licence"], origin["evaluation"]) == ("mine", "MIT", evaluation)
