"""Compiled potentials: the numbers of the eager ones, for configurations one and many, and nothing else accepted."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from closed_forms import Morse
from smoothflow import CapturedPotential, FlowPotential, FlowSettings, InternalCoordinates, build_flow, registry
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.errors import CompilationError, ConfigurationError, FileFormatError
from smoothflow.core.potential import Potential, unchecked
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials import compilation
from smoothflow.potentials.compilation import compile_potential
from smoothflow.potentials.compiled import CompiledPotential, read_compiled
from torch import Tensor

NO_COMPILER = torch._inductor.config.patch({"cpp.cxx": ("/nonexistent",)})

DEPTH, STEEPNESS, LENGTH = MORSE = 300.0, 20.0, 0.15


class Untraceable(Potential):
    shape = (3, 3)

    def energy(self, positions: Tensor) -> Tensor:
        return positions.square().sum((1, 2)) if float(positions.sum()) > 0 else positions.sum((1, 2))


def chain(n: int) -> Tensor:
    """Straight chains along x with both bonds of one length, different in each."""
    length = torch.linspace(0.13, 0.18, n, dtype=torch.float64)
    x = torch.zeros((n, 3, 3), dtype=torch.float64)
    x[:, 1, 0], x[:, 2, 0] = length, 2 * length
    return x


@pytest.fixture(scope="session")
def package(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    def make(path: Path) -> None:
        functions = compile_potential(Morse(3, *MORSE), chain(6), path, [torch.float64], second_derivatives=True)
        assert [f.name for f in functions] == ["one-float64", "many-float64", "curvature-float64"]

    return once("morse.pt2", make)


@pytest.fixture
def morse(package: Path) -> CompiledPotential:
    return read_compiled(package)


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_energies_and_forces_are_those_of_the_formula(morse: CompiledPotential, n: int) -> None:
    x = chain(n)
    energy, forces = morse.energy_and_forces(x)
    decay = torch.exp(-STEEPNESS * (x[:, 1, 0] - LENGTH))
    torch.testing.assert_close(energy, 2 * DEPTH * (1 - decay) ** 2, rtol=1e-12, atol=1e-12 * DEPTH)
    slope = 2 * DEPTH * STEEPNESS * (1 - decay) * decay
    expected = torch.zeros((n, 3, 3), dtype=torch.float64)
    expected[:, 0, 0], expected[:, 2, 0] = slope, -slope
    torch.testing.assert_close(forces, expected, rtol=1e-12, atol=1e-12 * DEPTH * STEEPNESS)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
def test_second_derivatives_are_those_of_the_formula(morse: CompiledPotential, n: int) -> None:
    x = chain(n)
    v = torch.zeros_like(x)
    v[:, 2, 0] = 1.0  # the last atom moves along its bond
    decay = torch.exp(-STEEPNESS * (x[:, 1, 0] - LENGTH))
    curvature = 2 * DEPTH * STEEPNESS**2 * decay * (2 * decay - 1)
    product = morse.hessian_vector_product(x, v)
    torch.testing.assert_close(product[:, 2, 0], curvature, rtol=1e-11, atol=1e-7)
    torch.testing.assert_close(product[:, 1, 0], -curvature, rtol=1e-11, atol=1e-7)
    # and autograd finds the same
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(morse.energy(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((gradient * v).sum(), leaf)
    torch.testing.assert_close(second, product, rtol=0, atol=0)


@pytest.mark.slow
def test_a_pickled_potential_runs_elsewhere_without_a_compiler(morse: CompiledPotential, tmp_path: Path) -> None:
    file = tmp_path / "potential.pickle"
    file.write_bytes(pickle.dumps(morse))
    program = f"""
import pickle, torch
potential = pickle.loads(open({str(file)!r}, "rb").read())
x = torch.zeros(1, 3, 3, dtype=torch.float64); x[0, 1, 0] = 0.15; x[0, 2, 0] = 0.35
print(float(potential.energy_and_forces(x)[0]))
"""
    environment = {**os.environ, "PATH": "", "CXX": "/nonexistent"}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert float(found.stdout) == pytest.approx(DEPTH * (1 - math.exp(-1)) ** 2, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 4, 3), (4, 3), (2, 3, 2)])
def test_positions_of_another_shape_are_refused(morse: CompiledPotential, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"needs \(batch, 3, 3\), or \(3, 3\) .* on cpu"):
        morse.energy_and_forces(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.slow
def test_a_precision_that_was_not_compiled_is_refused(morse: CompiledPotential) -> None:
    with pytest.raises(ConfigurationError, match='no function "one-float32"'):
        morse.to(torch.float32).energy_and_forces(chain(1).float())


@pytest.mark.slow
def test_positions_in_float32_are_computed_in_the_precision_of_the_package(morse: CompiledPotential) -> None:
    single = chain(2).float()
    energy, forces = morse.energy_and_forces(single)
    expected, expected_forces = morse.energy_and_forces(single.double())
    assert torch.equal(energy, expected.float())
    assert torch.equal(forces, expected_forces.float())
    assert torch.equal(morse.energy(single[0].numpy()), energy[0])


def rewrite(package: Path, target: Path, change: Callable[[dict[str, object]], None]) -> Path:
    """The package with another header."""
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("smoothflow.json"):
                header = json.loads(content)
                change(header)
                content = json.dumps(header).encode()
            new.writestr(entry.filename, content)
    return target


@pytest.mark.slow
def test_a_package_of_another_machine_or_torch_is_refused(package: Path, tmp_path: Path) -> None:
    def other_torch(header: dict[str, object]) -> None:
        header["machine"]["torch"] = "1.0.0"  # type: ignore[index]

    def other_processor(header: dict[str, object]) -> None:
        header["machine"]["cpu_flags"].append("avx1024")  # type: ignore[index]

    with pytest.raises(CompilationError, match=r"compiled for torch 1\.0\.0, and this is"):
        read_compiled(rewrite(package, tmp_path / "a.pt2", other_torch))
    with pytest.raises(CompilationError, match="a processor with avx1024, which this one lacks"):
        read_compiled(rewrite(package, tmp_path / "b.pt2", other_processor))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_package_for_a_gpu_is_refused_where_there_is_none(package: Path, tmp_path: Path) -> None:
    path = rewrite(package, tmp_path / "gpu.pt2", lambda header: header.update(device="cuda"))
    with pytest.raises(CompilationError, match=r"was compiled for a GPU, and torch finds none here\. Compile"):
        read_compiled(path)
    other = rewrite(package, tmp_path / "other.pt2", lambda header: header.update(device="tpu"))
    with pytest.raises(CompilationError, match='for a device "tpu", which is not known'):
        read_compiled(other)


@pytest.mark.slow
def test_packages_that_do_not_say_where_they_run_run_on_the_cpu(package: Path, tmp_path: Path) -> None:
    def without(header: dict[str, object]) -> None:
        del header["device"]

    assert read_compiled(rewrite(package, tmp_path / "old.pt2", without)).device == torch.device("cpu")


@pytest.mark.slow
def test_a_flow_is_compiled_without_a_file_for_this_process(
    package: Path,
    make_potential: Callable[[str], FlowPotential],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    written: list[Path] = []

    def compile_as_morse(_: Potential, __: Tensor, path: Path, *___: object, **____: object) -> None:
        written.append(path)
        path.write_bytes(package.read_bytes())

    monkeypatch.setattr(compilation, "compile_potential", compile_as_morse)
    monkeypatch.chdir(tmp_path)
    compiled = make_potential("affine").compile()
    assert isinstance(compiled, CompiledPotential)
    # what was written is gone, and the code runs
    expected = Morse(3, *MORSE).energy(chain(3))
    torch.testing.assert_close(compiled.energy(chain(3)), expected, rtol=1e-9, atol=1e-9)
    assert len(written) == 1
    assert not written[0].exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cuda
@pytest.mark.slow
def test_code_for_a_gpu_gives_the_numbers_of_the_potential_and_is_captured(
    make_potential: Callable[[str], FlowPotential], tmp_path: Path
) -> None:
    potential = make_potential("affine").requires_grad_(False).to("cuda")
    captured = potential.compile(tmp_path / "gpu.pt2")
    assert isinstance(captured, CapturedPotential)
    assert read_compiled(tmp_path / "gpu.pt2").device.type == "cuda"
    with pytest.raises(ConfigurationError, match="runs on a GPU"):
        read_compiled(tmp_path / "gpu.pt2").to("cpu")
    for n in (1, 3):
        x, _ = potential.sample(n, seed=0)
        expected = potential.energy_and_forces(x)
        torch.testing.assert_close(captured.energy_and_forces(x), expected, rtol=1e-9, atol=1e-5)


@pytest.mark.slow
def test_damaged_packages_are_refused(package: Path, tmp_path: Path) -> None:
    content = package.read_bytes()
    path = tmp_path / "x.pt2"
    for damaged in (b"", b"no zip", content[: len(content) // 2], content[:5000] + b"garbage!" + content[5008:]):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"Compile again|not a package"):
            read_compiled(path)
    with pytest.raises(FileFormatError, match="There is no file"):
        read_compiled(tmp_path / "missing.pt2")


@pytest.mark.slow
def test_wrong_code_is_never_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = compilation.trace

    def wrong(
        function: Callable[..., tuple[Tensor, ...]], examples: Sequence[Tensor], symbolic: bool
    ) -> torch.fx.GraphModule:
        return right(lambda x: tuple(1.001 * value for value in function(x)), examples, symbolic)

    monkeypatch.setattr(compilation, "trace", wrong)
    with pytest.raises(CompilationError, match=r"one-float64 gives other numbers .* differ by 0\.001"):
        compile_potential(Morse(3, *MORSE), chain(6), tmp_path / "wrong.pt2", [torch.float64])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_compiled_says_why(tmp_path: Path) -> None:
    with pytest.raises(CompilationError, match="cannot be traced"):
        compile_potential(Untraceable(), chain(6), tmp_path / "x.pt2")
    with pytest.raises(ConfigurationError, match="at least 4 configurations"):
        compile_potential(Morse(3, *MORSE), chain(3), tmp_path / "x.pt2")
    with pytest.raises(ConfigurationError, match=r'ends in "\.pt2"'):
        compile_potential(Morse(3, *MORSE), chain(6), tmp_path / "x.so")
    with NO_COMPILER, pytest.raises(CompilationError, match=r"needs a C\+\+ compiler"):
        compile_potential(Morse(3, *MORSE), chain(6), tmp_path / "x.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_flow_that_cannot_be_compiled_says_so_and_runs(
    make_potential: Callable[[str], Potential], tmp_path: Path
) -> None:
    potential = make_potential("affine")
    with NO_COMPILER, pytest.warns(UserWarning, match=r"runs uncompiled\. Compiling needs a C\+\+ compiler"):
        assert potential.compile(tmp_path / "x.pt2") is potential


@pytest.mark.slow
def test_a_compiled_flow_is_found_again(tmp_path: Path) -> None:
    topology, positions = topology_from_pdb(molecule_path("water"))
    coordinates = InternalCoordinates(topology)
    place = coordinates.encode(positions)[0][0].tolist()
    charts = [ColumnChart("standard", value, width) for value, width in zip(place, (0.005, 0.005, 0.1), strict=True)]
    settings = FlowSettings(line_pairs=0, interval_pairs=1, hidden=8)
    potential = FlowPotential(build_flow(settings, Chart(coordinates.codomain, charts)), coordinates, 300.0)
    potential = potential.double()
    package = tmp_path / "flow.pt2"
    compiled = potential.compile(package)
    assert isinstance(compiled, CompiledPotential)
    with torch.no_grad():
        x, _ = potential.sample(3, torch.Generator().manual_seed(5))
    for n in (1, 3):
        energy, forces = compiled.energy_and_forces(x[:n])
        expected_energy, expected_forces = potential.energy_and_forces(x[:n])
        # rounding in another order; forces of up to 1e4 kJ/mol/nm
        torch.testing.assert_close(energy, expected_energy, rtol=1e-11, atol=1e-9)
        torch.testing.assert_close(forces, expected_forces, rtol=1e-9, atol=1e-6)
    made = package.stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(potential.compile(package), CompiledPotential)
    assert package.stat().st_mtime_ns == made
    found = registry().load(package)
    assert isinstance(found, CompiledPotential)
    assert found.topology == topology


@pytest.mark.parametrize("name", ["smooth", "affine", "spline"])
def test_a_flow_with_arcs_is_traced_for_any_number_of_configurations(
    make_potential: Callable[[str], FlowPotential], name: str
) -> None:
    flow = make_potential(name).requires_grad_(False)
    positions, _ = flow.sample(5, seed=0)
    graph = compilation.trace(unchecked(flow, "energy_and_forces"), [positions[:2].clone()], symbolic=True)
    energy, forces = graph(positions)
    expected = flow.energy_and_forces(positions)
    # one formula in one precision, in another order of sums
    torch.testing.assert_close(energy, expected[0], rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(forces, expected[1], rtol=1e-8, atol=1e-6)
