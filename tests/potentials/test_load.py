"""``load`` reads models, compiled packages and the formats of plug-ins, each in a precision that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from smoothflow import CompiledPotential, FlowPotential, Potential, hookimpl, load, registry, save_model
from smoothflow.core.committee import CommitteePotential
from smoothflow.core.errors import ConfigurationError, FileFormatError, TopologyError, UnknownNameError
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.compiled import MANY, ONE, function_name
from smoothflow.potentials.reference import reference
from smoothflow.potentials.shipped import load_flow


def package_of(*dtypes: torch.dtype) -> CompiledPotential:
    """What a package of functions in some precisions is, without its code."""
    functions = [function_name(kind, dtype) for kind in (ONE, MANY) for dtype in dtypes]
    return CompiledPotential({"shape": [3, 3], "functions": functions}, b"")


PACKAGES: dict[str, Callable[[Path], Potential]] = {
    ".single": lambda path: package_of(torch.float32),
    ".both": lambda path: package_of(torch.float32, torch.float64),
}


@pytest.fixture
def packages(tmp_path: Path) -> Iterator[Path]:
    @hookimpl
    def smoothflow_loaders() -> Mapping[str, Callable[[Path], Potential]]:
        return PACKAGES

    for suffix in PACKAGES:
        (tmp_path / f"model{suffix}").touch()
    registry().register(SimpleNamespace(smoothflow_loaders=smoothflow_loaders), "packages")
    yield tmp_path
    registry().unregister("packages")


def test_a_model_is_loaded_in_double_precision_unless_asked_otherwise() -> None:
    model = load("ala2-affine")
    assert isinstance(model, FlowPotential)
    assert model.dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert load("ala2-affine", dtype=torch.float32).dtype == torch.float32
    assert load("ala2-affine", device="meta").device.type == "meta"


def test_compiled_code_is_loaded_in_a_precision_that_it_has(packages: Path) -> None:
    assert load(packages / "model.both").dtype == torch.float64
    assert load(packages / "model.both", dtype=torch.float32).dtype == torch.float32
    assert load(packages / "model.single").dtype == torch.float32
    with pytest.raises(ConfigurationError, match=r"was not compiled in torch\.float64"):
        load(packages / "model.single", dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="runs on the CPU"):
        load(packages / "model.both", device="meta")


def test_what_only_a_flow_can_do_is_refused_for_other_potentials(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds a CompiledPotential, which is not a flow"):
        load_flow(packages / "model.single")
    with pytest.raises(ConfigurationError, match="this is a CompiledPotential"):
        save_model(package_of(torch.float64), tmp_path / "model.safetensors")


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(UnknownNameError, match='Did you mean "ala2-smooth"'):
        load("ala2-smoth")
    with pytest.raises(FileFormatError, match="There is no file"):
        load("nothing.pt2")


def test_a_committee_is_named_by_its_models() -> None:
    committee = reference("committee:ala2-affine, ala2-spline", molecule_path("capped-alanine"))
    assert isinstance(committee, CommitteePotential)
    assert committee.temperature == 300
    flows = [load_flow(name) for name in ("ala2-affine", "ala2-spline")]
    positions, _ = flows[0].sample(2, seed=0)
    expected = sum(flow.energy(positions) for flow in flows) / 2
    torch.testing.assert_close(committee.energy(positions), expected)


def test_committees_that_cannot_be_are_refused(tmp_path: Path) -> None:
    flow = load_flow("ala2-affine")
    flow.temperature = 450.0
    save_model(flow, tmp_path / "hot.safetensors", {})
    with pytest.raises(ConfigurationError, match="Name two models or more"):
        reference("committee:ala2-affine")
    with pytest.raises(ConfigurationError, match="One model is given twice"):
        reference("committee:ala2-affine,ala2-affine")
    with pytest.raises(ConfigurationError, match="for 300 and 450 K"):
        reference(f"committee:ala2-affine,{tmp_path / 'hot.safetensors'}")
    with pytest.raises(UnknownNameError, match="ala2-afine"):
        reference("committee:ala2-afine,ala2-spline")
    with pytest.raises(TopologyError, match="water"):
        reference("committee:ala2-affine,ala2-spline", "water")
