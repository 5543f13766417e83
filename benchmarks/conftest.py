"""What all suites need: the options of ``smoothflow bench``, the model, the yardsticks, and how a figure is taken."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from smoothflow.backends.engines.openmm import OpenMMPotential
from smoothflow.core.files import file_digest
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.model_file import load_model
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from contenders import PEERS, Peer, untrained_potential
from measuring import Measure, jittered, short
from peptides import capped_polyalanine

LOAD = pytest.StashKey[float]()
"""The load of the machine before anything was measured."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--model", type=Path, help="A model file of capped alanine, instead of an untrained flow.")
    parser.addoption("--threads", type=int, default=1, help="Threads of torch, for all that is measured.")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(config.getoption("threads"))
    config.stash[LOAD] = os.getloadavg()[0]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    model = config.getoption("model")
    # whose machine it was says nothing about figures
    for name in ("node", "release"):
        machine_info.pop(name, None)
    machine_info["smoothflow"] = {
        "threads": torch.get_num_threads(),
        "load": config.stash[LOAD],
        "torch": torch.__version__,
        "model": "untrained" if model is None else f"{model.name} (SHA-256 {file_digest(model)[:12]})",
    }


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Of every single round nothing is kept: a file of measurements is small enough for a repository."""
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Measure:
    def take(
        call: Callable[[], object],
        group: str,
        contender: str,
        per: int = 1,
        yardstick: bool = False,
        **facts: object,
    ) -> None:
        benchmark.group = group
        benchmark.extra_info.update(
            suite=request.path.stem.removeprefix("test_"), contender=contender, per=per, yardstick=yardstick, **facts
        )
        if benchmark.enabled:
            call()  # what is made at the first call is not measured
        benchmark(call)

    return take


Flows = Callable[[torch.dtype], FlowPotential]


@pytest.fixture(scope="session")
def flow(request: pytest.FixtureRequest) -> Flows:
    """The flow that is measured, in a precision."""
    path = request.config.getoption("model")

    @cache
    def make(dtype: torch.dtype) -> FlowPotential:
        potential = untrained_potential(*capped_polyalanine(1)) if path is None else load_model(path)
        return potential.requires_grad_(False).to(dtype)

    return make


@pytest.fixture(scope="session")
def compiled(
    flow: Flows, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[torch.dtype], Potential]:
    """The same flow compiled; this takes minutes, once for a model, beside which its packages are kept."""
    model = request.config.getoption("model")
    stem = tmp_path_factory.mktemp("compiled") / "untrained" if model is None else model.with_suffix("")

    @cache
    def make(dtype: torch.dtype) -> Potential:
        return flow(dtype).compile(stem.with_name(f"{stem.name}-{short(dtype)}.pt2"))

    return make


@pytest.fixture(scope="session")
def amber() -> OpenMMPotential:
    """The force field of the molecule in OpenMM's Reference platform."""
    found = registry().provider("openmm")("amber99sbildn.xml,amber99_obc.xml", molecule_path("capped-alanine"))
    assert isinstance(found, OpenMMPotential)
    return OpenMMPotential(found.system, found.topology, "Reference")


@pytest.fixture(scope="session")
def peers(flow: Flows) -> dict[str, Peer]:
    """The flows of nflows and zuko, float32, on as many columns as the molecule has."""
    torch.manual_seed(0)
    dim = len(flow(torch.float32).flow.domain)
    return {name: make(dim).requires_grad_(False) for name, make in PEERS.items()}


Configurations = Callable[[int, torch.dtype], Tensor]


@pytest.fixture(scope="session")
def configurations() -> Configurations:
    """Batches of configurations of capped alanine, nm."""
    _, start = capped_polyalanine(1)
    return lambda batch, dtype: jittered(start, batch, dtype)
