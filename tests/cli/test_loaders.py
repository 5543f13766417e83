"""Models in the format of a plug-in: every command that takes a model reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from smoothflow.core.plugins import PotentialLoader, hookimpl, registry
from smoothflow.potentials.model_file import load_model

Smoothflow = Callable[..., Any]
Chain = Any


class Formats:
    """Model files by another suffix, and a potential that is not a flow."""

    @hookimpl
    def smoothflow_loaders(self) -> Mapping[str, PotentialLoader]:
        return {".renamed": load_model, ".toyflow": lambda path: load_model(Path(path.read_text())), ".toy": not_a_flow}


def not_a_flow(path: Path) -> Any:
    from smoothflow.core.potential import Potential

    class Flat(Potential):
        shape = (3, 3)

        def energy(self, positions: Any) -> Any:
            return positions.sum((-1, -2)) * 0

    return Flat()


@pytest.fixture
def other(chain: Chain, tmp_path: Path) -> Iterator[Path]:
    registry().register(Formats(), "formats", "smoothflow-formats", "2.0")
    path = tmp_path / "model.toyflow"
    path.write_text(str(chain.model))
    yield path
    registry().unregister("formats")


@pytest.mark.parametrize(
    "command",
    [
        "evaluate {model} {frames} -n 10 --reference openmm:amber99sbildn.xml,amber99_obc.xml",
        "sample {model} -n 10 --out {tmp}/samples.h5",
        "md {model} --start {frames} --steps 2 --energy-bound 1e6 --log {tmp}/md.csv",
        "info {model}",
        "info {model} --json",
        "check {model} --tests forces",
        "train {frames} --from {model} --steps 1 --out {tmp}/run",
    ],
)
def test_a_command_reads_a_model_of_a_plug_in(
    smoothflow: Smoothflow, chain: Chain, other: Path, tmp_path: Path, command: str
) -> None:
    found = smoothflow(*command.format(model=other, frames=chain.frames, tmp=tmp_path).split())
    assert found.code == 0, found.err
    assert found.out


@pytest.mark.parametrize(
    "command", ["evaluate {model} {frames} -n 10", "sample {model} -n 10 --out {tmp}/s.h5", "md {model} --steps 2"]
)
def test_a_potential_that_is_not_a_flow_is_refused_where_a_flow_is_needed(
    smoothflow: Smoothflow, chain: Chain, other: Path, tmp_path: Path, command: str
) -> None:
    model = tmp_path / "model.toy"
    model.write_text("")
    found = smoothflow(*command.format(model=model, frames=chain.frames, tmp=tmp_path).split())
    assert found.code == 2
    assert "holds a Flat, which is not a flow" in found.err
