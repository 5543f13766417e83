"""Model files: exact round trips, and clear errors for everything else."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from smoothflow import FlowPotential, FlowSettings, load, save_model
from smoothflow.core.architecture import transforms_for
from smoothflow.core.errors import ConfigurationError, FileFormatError, PluginError, SmoothflowError, TopologyError
from smoothflow.core.layers import Sequential
from smoothflow.core.plugins import registry
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.model_file import read_header

MakePotential = Callable[[str], FlowPotential]


def settings_of(name: str) -> FlowSettings:
    return FlowSettings(transforms=transforms_for(name), interval_pairs=1, circle_pairs=1, hidden=16, seed=3)


@pytest.fixture
def model(make_potential: MakePotential, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(make_potential("smooth"), path, {"force field": "none"})
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The same weights under a changed header."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["smoothflow"])
    change(header)
    save_file(load_file(path), path, metadata={"smoothflow": json.dumps(header)})


@pytest.mark.parametrize("name", ["smooth", "spline", "affine"])
def test_a_model_is_the_same_after_a_round_trip(make_potential: MakePotential, tmp_path: Path, name: str) -> None:
    potential = make_potential(name)
    path = tmp_path / "model.safetensors"
    save_model(potential, path, {})
    x, _ = potential.sample(4, torch.Generator().manual_seed(0))
    assert torch.equal(load(path).log_prob(x), potential.log_prob(x))
    assert load(path).topology == potential.topology


def test_the_header_holds_the_provenance_of_the_model(model: Path) -> None:
    header = read_header(model)
    assert header["provenance"] == {"force field": "none"}
    assert header["plugins"]["smooth"]["distribution"] == "smoothflow"
    assert header["temperature"] == 300.0


def test_a_file_is_complete_or_not_there(make_potential: MakePotential, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "model.safetensors"
    with pytest.raises(FileFormatError, match="cannot be written"):
        save_model(make_potential("smooth"), path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r'There is no file ".*nothing.safetensors"'):
        load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, 5000])
def test_a_truncated_file_is_refused(model: Path, keep: int) -> None:
    model.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(FileFormatError, match="not a smoothflow model"):
        load(model)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04 this is a zip file" * 10)
    with pytest.raises(FileFormatError, match="does not begin like a safetensors file"):
        load(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(FileFormatError, match="not a smoothflow model"):
        load(path)


def test_a_header_of_absurd_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(FileFormatError, match="does not begin like a safetensors file"):
        load(path)


def test_a_newer_schema_says_to_update(model: Path) -> None:
    rewrite(model, lambda header: header.update(schema=99))
    with pytest.raises(FileFormatError, match="schema 99; this version reads up to 3"):
        load(model)


def test_weights_that_do_not_fit_the_header_are_refused_without_allocating_them(model: Path) -> None:
    # 2^16 hidden units in each of two layers would take 34 GB in every coupling
    rewrite(model, lambda header: header["settings"].update(hidden=2**16))
    with pytest.raises(FileFormatError, match="do not fit the architecture"):
        load(model)


@pytest.mark.parametrize("key", ["settings", "charts", "zmatrix", "topology", "temperature"])
def test_a_damaged_header_is_refused(model: Path, key: str) -> None:
    rewrite(model, lambda header: header.pop(key))
    with pytest.raises(FileFormatError, match="damaged"):
        load(model)


def test_a_weight_that_is_not_finite_is_refused(model: Path) -> None:
    with safe_open(model, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(model)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, model, metadata=metadata)
    with pytest.raises(FileFormatError, match="is not finite"):
        load(model)


def test_a_model_whose_plugin_is_gone_says_what_to_install(model: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["settings"]["transforms"]["circle"] = "vanished"
        header["plugins"]["vanished"] = {"distribution": "flow-extras", "version": "2.1"}

    rewrite(model, change)
    with pytest.raises(PluginError, match="pip install flow-extras"):
        load(model)


def test_a_model_is_known_by_name(model: Path, tmp_path: Path) -> None:
    provider = registry().provider("smoothflow")
    for structure in (molecule_path("capped-alanine"), tmp_path / "missing.pdb"):
        assert provider(str(model), structure).topology == load(model).topology
    with pytest.raises(TopologyError, match=r"model.safetensors\" has 22 atoms and .*water.pdb\" has"):
        provider(str(model), molecule_path("water"))
    with pytest.raises(FileFormatError, match="There is no file"):
        provider(str(tmp_path / "missing.safetensors"), tmp_path)


def test_settings_that_are_not_the_flows_are_refused(make_potential: MakePotential, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for wrong in (FlowSettings(), settings_of("spline")):
        with (
            pytest.warns(DeprecationWarning, match="knows its settings"),
            pytest.raises(ConfigurationError, match="not those of the flow"),
        ):
            save_model(make_potential("smooth"), wrong, path, {})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_call_of_version_0_1_still_saves(make_potential: MakePotential, tmp_path: Path) -> None:
    positional, by_name = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    potential, settings = make_potential("smooth"), settings_of("smooth")
    with pytest.warns(DeprecationWarning, match="knows its settings"):
        save_model(potential, settings, positional, {"a": 1})
    with pytest.warns(DeprecationWarning, match="knows its settings"):
        save_model(potential, settings=settings, path=by_name, provenance={"a": 1})
    assert read_header(positional)["provenance"] == {"a": 1}
    assert positional.read_bytes() == by_name.read_bytes()


def test_a_loaded_model_is_saved_without_a_word_of_its_settings(model: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_model(load(model), again, read_header(model)["provenance"])
    first, second = read_header(model), read_header(again)
    assert first == second


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda p: p.half(), "F16"),
        (lambda p: next(p.flow.parameters()).data.fill_(math.nan), "not finite"),
        (lambda p: setattr(p, "temperature", -1.0), "temperature"),
        (lambda p: setattr(p, "topology", None), "topology"),
        (lambda p: setattr(p.flow, "settings", None), "build_flow"),
        (lambda p: setattr(p.flow, "settings", settings_of("spline")), "do not fit"),
    ],
)
def test_what_could_not_be_loaded_is_not_written(
    make_potential: MakePotential, tmp_path: Path, harm: Callable[[FlowPotential], object], reason: str
) -> None:
    potential = make_potential("smooth")
    harm(potential)
    with pytest.raises(SmoothflowError, match=reason):
        save_model(potential, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("provenance", [{"a": "x" * 5 * 2**20}, {"a": 10**30}, {"a": object()}])
def test_a_provenance_that_could_not_be_read_is_refused(
    make_potential: MakePotential, tmp_path: Path, provenance: dict[str, Any]
) -> None:
    with pytest.raises(SmoothflowError):
        save_model(make_potential("smooth"), tmp_path / "model.safetensors", provenance)
    assert list(tmp_path.iterdir()) == []


def test_flow_of_a_single_layer_without_charts_is_refused(make_potential: MakePotential, tmp_path: Path) -> None:
    potential = make_potential("smooth")
    assert isinstance(potential.flow.layer, Sequential)
    potential.flow.layer = potential.flow.layer.layers[1]
    with pytest.raises(FileFormatError, match="Only flows that start with a Chart"):
        save_model(potential, tmp_path / "model.safetensors")
